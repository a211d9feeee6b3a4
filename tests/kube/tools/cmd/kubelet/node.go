package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	coordv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// node is one node of the cluster. It talks to the API server from a network namespace of its own, so that cutting
// its link does to it what a cut does to a machine.
type node struct {
	rig   *rig
	name  string
	index int

	mu     sync.Mutex
	alive  bool
	cut    bool
	pods   map[types.UID]*pod
	lastIP int

	// of one life, from start to kill
	link    *link
	client  kubernetes.Interface
	maps    corelisters.ConfigMapLister
	secrets corelisters.SecretLister
	events  record.EventRecorder
	cancel  context.CancelFunc
	frozen  atomic.Bool
	held    []func() // what a frozen node was told
}

const leaseDuration = 40 // seconds, as the kubelet's default

func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.alive {
		return fmt.Errorf("%s runs already", n.name)
	}
	l, err := n.rig.newLink(fmt.Sprintf("10.244.0.%d", 10+n.index))
	if err != nil {
		return err
	}
	own := rest.CopyConfig(n.rig.rest)
	own.Dial = l.dial
	own.UserAgent = "kubelet/" + n.name
	client, err := kubernetes.NewForConfig(own)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.link, n.client, n.cancel, n.alive, n.cut = l, client, cancel, true, false
	n.frozen.Store(false)
	n.held = nil
	n.pods = map[types.UID]*pod{}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	n.events = broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: n.name})
	if err := n.serveLogs(ctx, l); err != nil {
		return err
	}
	go n.heartbeat(ctx)
	n.watch(ctx)
	return nil
}

// kill is the power cut: the link first, so that no end of a connection gets out, then every process at once. Nobody
// tells the API server anything.
func (n *node) kill() {
	n.mu.Lock()
	if !n.alive {
		n.mu.Unlock()
		return
	}
	n.alive = false
	_ = n.link.cut(true)
	n.cancel()
	pods := slices.Collect(maps.Values(n.pods))
	n.mu.Unlock()
	for _, p := range pods {
		if l := p.network(); l != nil {
			_ = l.cut(true)
		}
	}
	for _, p := range pods {
		p.die()
	}
	for _, p := range pods {
		<-p.done
	}
	n.link.close()
}

// setCut cuts or restores the node and all its pods, also those that come later.
func (n *node) setCut(off bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.alive {
		return fmt.Errorf("%s does not run", n.name)
	}
	n.cut = off
	err := n.link.cut(off)
	for _, p := range n.pods {
		if l := p.network(); l != nil && err == nil {
			err = l.cut(off || p.cut.Load())
		}
	}
	return err
}

// setFrozen stops the containers and the heartbeats, as a machine that hangs.
func (n *node) setFrozen(on bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen.Store(on)
	for _, p := range n.pods {
		if err := p.freeze(on); err != nil {
			return err
		}
	}
	for !on && len(n.held) > 0 {
		go n.held[0]()
		n.held = n.held[1:]
	}
	return nil
}

// newAddress hands out the addresses of the node's range in turn: a new pod gets another one than the pod before it.
func (n *node) newAddress() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := map[string]bool{}
	for _, p := range n.pods {
		if l := p.network(); l != nil {
			taken[l.ip] = true
		}
	}
	for {
		n.lastIP = n.lastIP%250 + 1
		if ip := fmt.Sprintf("10.244.%d.%d", n.index, n.lastIP); !taken[ip] {
			return ip
		}
	}
}

func nodeCapacity() v1.ResourceList {
	return v1.ResourceList{
		v1.ResourceCPU:              resource.MustParse("16"),
		v1.ResourceMemory:           resource.MustParse("32Gi"),
		v1.ResourcePods:             resource.MustParse("110"),
		v1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
	}
}

func (n *node) object() *v1.Node {
	labels := map[string]string{v1.LabelHostname: n.name, v1.LabelOSStable: "linux", v1.LabelArchStable: "amd64",
		v1.LabelTopologyZone: fmt.Sprintf("zone-%d", n.index), v1.LabelTopologyRegion: "test"}
	for key, value := range n.rig.NodeLabels {
		labels[key] = value
	}
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: labels}}
}

func (n *node) status() v1.NodeStatus {
	now := metav1.Now()
	condition := func(kind v1.NodeConditionType, status v1.ConditionStatus, reason string) v1.NodeCondition {
		return v1.NodeCondition{Type: kind, Status: status, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	return v1.NodeStatus{
		Capacity:    nodeCapacity(),
		Allocatable: nodeCapacity(),
		Conditions: []v1.NodeCondition{
			condition(v1.NodeMemoryPressure, v1.ConditionFalse, "KubeletHasSufficientMemory"),
			condition(v1.NodeDiskPressure, v1.ConditionFalse, "KubeletHasNoDiskPressure"),
			condition(v1.NodePIDPressure, v1.ConditionFalse, "KubeletHasSufficientPID"),
			condition(v1.NodeReady, v1.ConditionTrue, "KubeletReady"),
		},
		Addresses:       []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: n.link.ip}, {Type: v1.NodeHostName, Address: n.name}},
		DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: logsPort}},
		NodeInfo: v1.NodeSystemInfo{KubeletVersion: "v1.35.4", OperatingSystem: "linux", Architecture: "amd64",
			ContainerRuntimeVersion: "processes://1"},
	}
}

// heartbeat registers the node, keeps its lease, and puts its status right where somebody else changed it.
func (n *node) heartbeat(ctx context.Context) {
	for first := true; ; first = false {
		if !first && !pause(ctx, seconds(n.rig.LeaseSeconds)) {
			return
		}
		if n.frozen.Load() {
			continue
		}
		if err := n.beat(ctx); err != nil && ctx.Err() == nil {
			log.Printf("%s: %v", n.name, err)
		}
	}
}

func (n *node) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	nodes := n.client.CoreV1().Nodes()
	have, err := nodes.Get(ctx, n.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		have, err = nodes.Create(ctx, n.object(), metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	ready := false
	for _, c := range have.Status.Conditions {
		ready = ready || c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	}
	if !ready {
		patch, _ := json.Marshal(map[string]any{"status": n.status()})
		if _, err := nodes.PatchStatus(ctx, n.name, patch); err != nil {
			return err
		}
	}
	return n.renewLease(ctx, have)
}

func (n *node) renewLease(ctx context.Context, owner *v1.Node) error {
	leases := n.client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	now, duration := metav1.NewMicroTime(time.Now()), int32(leaseDuration)
	spec := coordv1.LeaseSpec{HolderIdentity: &n.name, LeaseDurationSeconds: &duration, RenewTime: &now}
	patch, _ := json.Marshal(map[string]any{"spec": spec})
	_, err := leases.Patch(ctx, n.name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordv1.Lease{Spec: spec, ObjectMeta: metav1.ObjectMeta{Name: n.name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.name, UID: owner.UID}}},
		}, metav1.CreateOptions{})
	}
	return err
}

// watch follows the pods bound to the node, and what their volumes show.
func (n *node) watch(ctx context.Context) {
	bound := informers.NewSharedInformerFactoryWithOptions(n.client, 0, informers.WithTweakListOptions(
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", n.name).String()
		}))
	_, _ = bound.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { n.podChanged(ctx, o.(*v1.Pod)) },
		UpdateFunc: func(_, o any) { n.podChanged(ctx, o.(*v1.Pod)) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			n.podGone(o.(*v1.Pod))
		},
	})
	shown := informers.NewSharedInformerFactory(n.client, 0)
	changed := cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, o any) { n.refresh(o) },
		AddFunc: func(o any) { n.refresh(o) }}
	_, _ = shown.Core().V1().ConfigMaps().Informer().AddEventHandler(changed)
	_, _ = shown.Core().V1().Secrets().Informer().AddEventHandler(changed)
	n.maps, n.secrets = shown.Core().V1().ConfigMaps().Lister(), shown.Core().V1().Secrets().Lister()
	shown.Start(ctx.Done())
	bound.Start(ctx.Done())
}

// configMap asks the API server; while that cannot be reached, what was last seen has to do.
func (n *node) configMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	limit, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	m, err := n.client.CoreV1().ConfigMaps(namespace).Get(limit, name, metav1.GetOptions{})
	if seen, missing := n.maps.ConfigMaps(namespace).Get(name); err != nil && !apierrors.IsNotFound(err) && missing == nil {
		return seen, nil
	}
	return m, err
}

func (n *node) secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	limit, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	m, err := n.client.CoreV1().Secrets(namespace).Get(limit, name, metav1.GetOptions{})
	if seen, missing := n.secrets.Secrets(namespace).Get(name); err != nil && !apierrors.IsNotFound(err) && missing == nil {
		return seen, nil
	}
	return m, err
}

// refresh has the pods look that show this ConfigMap or Secret in a volume.
func (n *node) refresh(changed any) {
	object := changed.(metav1.Object)
	_, secret := changed.(*v1.Secret)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pods {
		if p.namespace == object.GetNamespace() && shows(p.object(), object.GetName(), secret) {
			wake(p.stale)
		}
	}
}

func (n *node) podChanged(ctx context.Context, obj *v1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.alive {
		return
	}
	if n.frozen.Load() {
		n.held = append(n.held, func() { n.podChanged(ctx, obj) })
		return
	}
	p, ok := n.pods[obj.UID]
	if !ok {
		ended := obj.Status.Phase == v1.PodSucceeded || obj.Status.Phase == v1.PodFailed
		if ended && obj.DeletionTimestamp == nil {
			return
		}
		p = newPod(ctx, n, obj)
		n.pods[obj.UID] = p
		go p.run()
	}
	p.update(obj)
}

func (n *node) podGone(obj *v1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.frozen.Load() {
		n.held = append(n.held, func() { n.podGone(obj) })
		return
	}
	p := n.pods[obj.UID]
	if p == nil {
		return
	}
	p.hurryUp()
	p.cancel()
	go func() {
		<-p.done
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.pods, obj.UID)
	}()
}

// find returns the pod of that name that came last.
func (r *rig) find(namespace, name string) *pod {
	var found *pod
	for _, n := range r.nodes {
		n.mu.Lock()
		for _, p := range n.pods {
			if p.namespace == namespace && p.name == name && (found == nil || p.arrived.After(found.arrived)) {
				found = p
			}
		}
		n.mu.Unlock()
	}
	return found
}

// wake makes whoever waits for c go once round; one pending round is enough.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
