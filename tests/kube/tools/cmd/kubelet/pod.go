package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pod is one pod on its node, from its arrival until its object is gone.
type pod struct {
	node            *node
	namespace, name string
	uid             types.UID
	dir             string
	arrived         time.Time
	life            context.Context // of the node
	ctx             context.Context // until the pod is to end
	cancel          context.CancelFunc
	hurry           chan struct{} // closed when grace is over
	hurryOnce       sync.Once
	dirty, stale    chan struct{} // the status, the projected volumes need a look
	done            chan struct{}
	inits, mains    []*container
	volumes         *volumes
	volumesMu       sync.Mutex
	cut, frozen     atomic.Bool

	mu          sync.Mutex
	obj         *v1.Pod
	link        *link
	ip          string
	started     metav1.Time
	initialized bool
	conditions  map[v1.PodConditionType]v1.PodCondition
	sent        string
}

func newPod(life context.Context, n *node, obj *v1.Pod) *pod {
	p := &pod{node: n, namespace: obj.Namespace, name: obj.Name, uid: obj.UID, obj: obj, arrived: time.Now(), life: life,
		dir: filepath.Join(n.rig.Dir, "pods", string(obj.UID)), hurry: make(chan struct{}), done: make(chan struct{}),
		dirty: make(chan struct{}, 1), stale: make(chan struct{}, 1), conditions: map[v1.PodConditionType]v1.PodCondition{},
		started: metav1.Now()}
	p.ctx, p.cancel = context.WithCancel(life)
	p.volumes = &volumes{pod: p, path: map[string]string{}, tokens: map[string]token{}}
	if obj.Status.StartTime != nil {
		p.started = *obj.Status.StartTime
	}
	for _, c := range obj.Status.Conditions {
		p.conditions[c.Type] = c
	}
	for i := range obj.Spec.InitContainers {
		p.inits = append(p.inits, newContainer(p, &obj.Spec.InitContainers[i], true, "PodInitializing", obj.Status.InitContainerStatuses))
	}
	reason := "ContainerCreating"
	if len(p.inits) > 0 {
		reason = "PodInitializing"
	}
	for i := range obj.Spec.Containers {
		p.mains = append(p.mains, newContainer(p, &obj.Spec.Containers[i], false, reason, obj.Status.ContainerStatuses))
	}
	return p
}

func (p *pod) all() []*container { return append(append([]*container{}, p.inits...), p.mains...) }

func (p *pod) network() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

func (p *pod) object() *v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.obj
}

func (p *pod) hurryUp() { p.hurryOnce.Do(func() { close(p.hurry) }) }

// die is the pod's part in the power cut of its node, whose context has ended already.
func (p *pod) die() {
	p.hurryUp()
	p.cancel()
	for _, c := range p.all() {
		if proc := c.running(); proc != nil {
			proc.kill()
		}
	}
}

// update takes the newest object; a deletion starts the grace, a second one with less grace shortens it.
func (p *pod) update(obj *v1.Pod) {
	p.mu.Lock()
	before := p.obj
	p.obj = p.withAddress(obj)
	ours := p.conditions[v1.PodReady].Status
	p.mu.Unlock()
	for _, c := range obj.Status.Conditions {
		if c.Type == v1.PodReady && ours != "" && c.Status != ours { // the node controller called us lost
			p.mu.Lock()
			p.sent = ""
			p.mu.Unlock()
			wake(p.dirty)
		}
	}
	if obj.Generation != before.Generation || len(obj.Spec.ReadinessGates) > 0 {
		wake(p.dirty)
	}
	if !maps.Equal(obj.Labels, before.Labels) || !maps.Equal(obj.Annotations, before.Annotations) {
		wake(p.stale)
	}
	if obj.DeletionTimestamp == nil {
		return
	}
	if obj.DeletionGracePeriodSeconds != nil {
		time.AfterFunc(time.Duration(*obj.DeletionGracePeriodSeconds)*time.Second, p.hurryUp)
	}
	p.cancel()
}

// withAddress is the object with the addresses it will have once the status has gone out.
func (p *pod) withAddress(obj *v1.Pod) *v1.Pod {
	if p.ip != "" && obj.Status.PodIP != p.ip {
		obj = obj.DeepCopy()
		obj.Status.PodIP, obj.Status.HostIP = p.ip, p.node.link.ip
	}
	return obj
}

func (p *pod) run() {
	defer close(p.done)
	go p.report()
	wake(p.dirty)
	if p.object().DeletionTimestamp == nil && p.setUp() {
		go p.keepFresh()
		p.runContainers()
	}
	p.closeLink()
	<-p.ctx.Done()
	if p.life.Err() != nil {
		return // the node died: nothing is told, its disks stay
	}
	p.finish()
}

// setUp makes network and volumes, trying again while what the volumes name is missing.
func (p *pod) setUp() bool {
	for attempt := 0; ; attempt++ {
		err := os.MkdirAll(p.dir, 0o755)
		if err == nil {
			err = p.connect()
		}
		if err == nil {
			p.volumesMu.Lock()
			err = p.volumes.prepare(p.ctx, p.object())
			p.volumesMu.Unlock()
		}
		if err == nil {
			return true
		}
		if attempt%15 == 0 {
			p.event(v1.EventTypeWarning, "FailedMount", err.Error())
		}
		if !pause(p.ctx, time.Second) {
			return false
		}
	}
}

func (p *pod) connect() error {
	if p.network() != nil {
		return nil
	}
	if c := p.object().Spec; c.HostNetwork || c.HostPID || c.HostIPC || len(c.EphemeralContainers) > 0 {
		return fmt.Errorf("the test kubelet supports no host namespaces and no ephemeral containers")
	}
	l, err := p.node.rig.newLink(p.node.newAddress())
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.link, p.ip = l, l.ip
	p.obj = p.withAddress(p.obj)
	p.mu.Unlock()
	p.node.mu.Lock()
	off := p.node.cut
	p.node.mu.Unlock()
	if off {
		err = l.cut(true)
	}
	wake(p.dirty)
	return err
}

func (p *pod) closeLink() {
	p.mu.Lock()
	l := p.link
	p.link = nil
	p.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// keepFresh follows ConfigMaps, Secrets, labels and the age of tokens.
func (p *pod) keepFresh() {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.stale:
		case <-tick.C:
		}
		p.volumesMu.Lock()
		err := p.volumes.refresh(p.ctx, p.object())
		p.volumesMu.Unlock()
		if err != nil && p.ctx.Err() == nil {
			log.Printf("%s/%s: %v", p.namespace, p.name, err)
		}
	}
}

// runContainers returns when every container has ended for good.
func (p *pod) runContainers() {
	var all sync.WaitGroup
	side, endSide := context.WithCancel(p.ctx)
	defer all.Wait()
	defer endSide()
	for _, c := range p.inits {
		if c.sidecar {
			all.Go(func() { c.run(side) })
			for !c.isStarted() {
				if !pause(p.ctx, 20*time.Millisecond) {
					return
				}
			}
			continue
		}
		c.run(p.ctx)
		if !c.succeeded() {
			return
		}
	}
	p.mu.Lock()
	p.initialized = true
	p.mu.Unlock()
	wake(p.dirty)
	var mains sync.WaitGroup
	for _, c := range p.mains {
		mains.Go(func() { c.run(p.ctx) })
	}
	mains.Wait()
}

// finish reports the end and lets the object go.
func (p *pod) finish() {
	p.send()
	zero := int64(0)
	for {
		err := p.node.client.CoreV1().Pods(p.namespace).Delete(p.life, p.name, metav1.DeleteOptions{
			GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.uid}})
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			break
		}
		if !pause(p.life, time.Second) {
			return
		}
	}
	_ = os.RemoveAll(p.dir)
}

func (p *pod) freeze(on bool) error {
	p.frozen.Store(on)
	for _, c := range p.all() {
		if proc := c.running(); proc != nil {
			if err := proc.group.freeze(on); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pod) event(kind, reason, message string) {
	p.node.events.Event(p.object(), kind, reason, message)
}

// ---- status ----

// report sends the status whenever it may have changed, until the node dies.
func (p *pod) report() {
	for {
		select {
		case <-p.life.Done():
			return
		case <-p.done:
			return
		case <-p.dirty:
		}
		for p.node.frozen.Load() {
			if !pause(p.life, 50*time.Millisecond) {
				return
			}
		}
		if !p.send() && pause(p.life, time.Second) {
			wake(p.dirty)
		}
	}
}

// send is true when the API server has the status, or has the pod no more.
func (p *pod) send() bool {
	p.mu.Lock()
	status := p.status()
	patch := statusPatch(&status, p.uid)
	if patch == p.sent {
		p.mu.Unlock()
		return true
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(p.life, 10*time.Second)
	defer cancel()
	_, err := p.node.client.CoreV1().Pods(p.namespace).Patch(ctx, p.name, types.StrategicMergePatchType, []byte(patch),
		metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		if p.life.Err() == nil {
			log.Printf("status of %s/%s: %v", p.namespace, p.name, err)
		}
		return false
	}
	p.mu.Lock()
	p.sent = patch
	p.mu.Unlock()
	return true
}

// statusPatch merges conditions by type, since others write theirs; all other lists are replaced.
func statusPatch(status *v1.PodStatus, uid types.UID) string {
	text, _ := json.Marshal(status)
	var fields map[string]any
	_ = json.Unmarshal(text, &fields)
	for _, name := range []string{"podIPs", "hostIPs"} {
		if list, ok := fields[name].([]any); ok {
			fields[name] = append(list, map[string]any{"$patch": "replace"})
		}
	}
	text, _ = json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": fields})
	return string(text)
}

// status is called with the mutex held.
func (p *pod) status() v1.PodStatus {
	s := v1.PodStatus{Phase: p.phase(), StartTime: &p.started, HostIP: p.node.link.ip,
		HostIPs: []v1.HostIP{{IP: p.node.link.ip}}, ObservedGeneration: p.obj.Generation}
	if ip := p.obj.Status.PodIP; ip != "" {
		s.PodIP, s.PodIPs = ip, []v1.PodIP{{IP: ip}}
	}
	var unready []string
	for _, c := range p.inits {
		s.InitContainerStatuses = append(s.InitContainerStatuses, c.status())
	}
	for _, c := range p.mains {
		one := c.status()
		s.ContainerStatuses = append(s.ContainerStatuses, one)
		if !one.Ready {
			unready = append(unready, c.spec.Name)
		}
	}
	reason, message := "", ""
	if len(unready) > 0 {
		reason, message = "ContainersNotReady", "containers with unready status: ["+strings.Join(unready, " ")+"]"
		if s.Phase == v1.PodSucceeded {
			reason, message = "PodCompleted", ""
		}
	}
	s.Conditions = append(s.Conditions,
		p.condition(v1.PodReadyToStartContainers, p.link != nil, "", ""),
		p.condition(v1.PodInitialized, p.initialized, "ContainersNotInitialized", ""),
		p.condition(v1.ContainersReady, len(unready) == 0, reason, message))
	ready := len(unready) == 0
	for _, gate := range p.obj.Spec.ReadinessGates {
		open := false
		for _, c := range p.obj.Status.Conditions {
			open = open || c.Type == gate.ConditionType && c.Status == v1.ConditionTrue
		}
		if ready && !open {
			ready, reason, message = false, "ReadinessGatesNotReady", fmt.Sprintf("condition %q is not true", gate.ConditionType)
		}
	}
	s.Conditions = append(s.Conditions, p.condition(v1.PodReady, ready, reason, message))
	return s
}

func (p *pod) condition(kind v1.PodConditionType, holds bool, reason, message string) v1.PodCondition {
	c := v1.PodCondition{Type: kind, Status: v1.ConditionTrue, ObservedGeneration: p.obj.Generation}
	if !holds {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, reason, message
	}
	c.LastTransitionTime = metav1.Now()
	if old, ok := p.conditions[kind]; ok && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	p.conditions[kind] = c
	return c
}

func (p *pod) phase() v1.PodPhase {
	for _, c := range p.inits {
		if c.over && c.state.Terminated != nil && c.state.Terminated.ExitCode != 0 {
			return v1.PodFailed
		}
	}
	if !p.initialized {
		return v1.PodPending
	}
	failed := false
	for _, c := range p.mains {
		if c.state.Waiting != nil && c.last.Terminated == nil {
			return v1.PodPending
		}
	}
	for _, c := range p.mains {
		if !c.over {
			return v1.PodRunning
		}
		failed = failed || c.state.Terminated == nil || c.state.Terminated.ExitCode != 0
	}
	if failed {
		return v1.PodFailed
	}
	return v1.PodSucceeded
}
