package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// container is one container of a pod through all its runs. Its fields below `spec` belong to the pod's mutex.
type container struct {
	pod     *pod
	spec    *v1.Container
	sidecar bool
	first   bool // of an init container: restarted only on failure

	state, last    v1.ContainerState
	restarts       int32
	ready, started bool
	over           bool // will not run again
	proc           *process
	init           *initSpec // of proc
	log            string
}

func newContainer(p *pod, spec *v1.Container, first bool, reason string, before []v1.ContainerStatus) *container {
	c := &container{pod: p, spec: spec, first: first}
	c.sidecar = spec.RestartPolicy != nil && *spec.RestartPolicy == v1.ContainerRestartPolicyAlways
	c.state.Waiting = &v1.ContainerStateWaiting{Reason: reason}
	for _, old := range before { // the node died under it, or the kubelet was started anew
		if old.Name == spec.Name && (old.State.Running != nil || old.State.Terminated != nil) {
			c.restarts = old.RestartCount + 1
			c.last = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 255, Reason: "Unknown",
				FinishedAt: metav1.Now()}}
		}
	}
	return c
}

func (c *container) running() *process {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.proc
}

func (c *container) isStarted() bool {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.started
}

func (c *container) succeeded() bool {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.state.Terminated != nil && c.state.Terminated.ExitCode == 0
}

// change sets fields under the mutex and has the status looked at.
func (c *container) change(f func()) {
	c.pod.mu.Lock()
	f()
	c.pod.mu.Unlock()
	wake(c.pod.dirty)
}

func (c *container) status() v1.ContainerStatus {
	ready, started := c.ready, c.started
	s := v1.ContainerStatus{Name: c.spec.Name, Image: c.spec.Image, ImageID: "host://" + c.spec.Image, State: c.state,
		LastTerminationState: c.last, RestartCount: c.restarts, Ready: ready, Started: &started}
	if c.first && !c.sidecar {
		s.Ready = c.state.Terminated != nil && c.state.Terminated.ExitCode == 0
	}
	if c.state.Running != nil || c.state.Terminated != nil {
		s.ContainerID = fmt.Sprintf("processes://%s-%s-%d", c.pod.uid, c.spec.Name, c.restarts)
	}
	return s
}

// run keeps the container running by the pod's restart policy until that says no more or ctx ends.
func (c *container) run(ctx context.Context) {
	defer c.change(func() { c.over = true })
	health, stopHealth := context.WithCancel(ctx)
	defer stopHealth()
	c.startProbes(health)
	base, delay := seconds(c.pod.node.rig.BackoffSeconds), time.Duration(0)
	for ctx.Err() == nil {
		for c.pod.frozen.Load() {
			pause(ctx, 20*time.Millisecond)
		}
		began := time.Now()
		if waiting := c.start(); waiting != nil {
			c.change(func() { c.state = v1.ContainerState{Waiting: waiting} })
			pause(ctx, 2*time.Second)
			continue
		}
		if proc := c.running(); proc != nil {
			select {
			case <-proc.done:
			case <-ctx.Done():
				c.end(proc, time.Hour)
			}
			c.ended(proc)
		}
		if !c.again() || ctx.Err() != nil {
			return
		}
		if time.Since(began) > 60*base {
			delay = 0
		}
		c.backOff(ctx, delay)
		delay = min(max(2*delay, base), 30*base)
	}
}

func (c *container) again() bool {
	switch policy := c.pod.object().Spec.RestartPolicy; {
	case c.sidecar:
		return true
	case policy == v1.RestartPolicyNever:
		return false
	case policy == v1.RestartPolicyOnFailure || c.first:
		return !c.succeeded()
	}
	return true
}

// backOff waits before the next run; the first restart is at once.
func (c *container) backOff(ctx context.Context, delay time.Duration) {
	if delay > 0 {
		message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", delay, c.spec.Name, c.pod.name,
			c.pod.namespace, c.pod.uid)
		c.change(func() {
			c.last = c.state
			c.state = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: message}}
		})
		c.pod.event(v1.EventTypeWarning, "BackOff", message)
		if !pause(ctx, delay) {
			c.change(func() { c.state = c.last })
			return
		}
	}
	c.change(func() {
		if c.state.Terminated != nil {
			c.last = c.state
		}
		c.restarts++
	})
}

// end runs the preStop hook and stops the process.
func (c *container) end(proc *process, grace time.Duration) {
	deadline := time.Now().Add(grace)
	if h := c.spec.Lifecycle; h != nil && h.PreStop != nil {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		go func() {
			select {
			case <-c.pod.hurry:
				cancel()
			case <-ctx.Done():
			}
		}()
		if err := c.hook(ctx, proc, h.PreStop); err != nil && ctx.Err() == nil {
			c.pod.event(v1.EventTypeWarning, "FailedPreStopHook", err.Error())
		}
		cancel()
	}
	proc.stop(time.Until(deadline), c.pod.hurry)
}

func (c *container) hook(ctx context.Context, proc *process, h *v1.LifecycleHandler) error {
	if h.Sleep != nil {
		pause(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
		return nil
	}
	return c.check(ctx, proc, &v1.ProbeHandler{Exec: h.Exec, HTTPGet: h.HTTPGet, TCPSocket: h.TCPSocket})
}

func (c *container) ended(proc *process) {
	reason := "Error"
	switch {
	case proc.oom:
		reason = "OOMKilled"
	case proc.code == 0:
		reason = "Completed"
	}
	message := c.terminationMessage(proc.code)
	c.change(func() {
		c.proc, c.ready, c.started = nil, false, false
		c.state = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: proc.code, Reason: reason,
			Message: message, StartedAt: metav1.NewTime(proc.started), FinishedAt: metav1.NewTime(proc.ended),
			ContainerID: fmt.Sprintf("processes://%s-%s-%d", c.pod.uid, c.spec.Name, c.restarts)}}
	})
}

func (c *container) messagePath() string {
	return filepath.Join(c.pod.dir, c.spec.Name+".termination-log")
}

func (c *container) terminationMessage(code int32) string {
	text, _ := os.ReadFile(c.messagePath())
	if len(text) == 0 && code != 0 && c.spec.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError {
		text, _ = os.ReadFile(c.log)
		text = text[max(0, len(text)-2048):]
	}
	return strings.ToValidUTF8(string(text[:min(len(text), 4096)]), "?")
}

// start starts the process. What keeps it from being tried is returned; a command that cannot run counts as a run.
func (c *container) start() *v1.ContainerStateWaiting {
	r, obj := c.pod.node.rig, c.pod.object()
	img, ok := r.Images[c.spec.Image]
	if !ok {
		return &v1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "there is no image " + c.spec.Image}
	}
	spec, err := c.describe(obj, img)
	if err != nil {
		return &v1.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: err.Error()}
	}
	limits := c.spec.Resources.Limits
	group := r.newCgroup(fmt.Sprintf("%s-%s-%d", c.pod.uid, c.spec.Name, c.restarts), limits.Cpu().MilliValue(), limits.Memory().Value())
	spec.Cgroups = group.mounts()
	path := filepath.Join(r.Dir, "logs", fmt.Sprintf("%s_%s_%s_%s_%d.log", obj.Namespace, obj.Name, obj.UID[:8], c.spec.Name, c.restarts))
	l := c.pod.network()
	proc, err := r.startProcess(l, spec, group, path)
	if err != nil {
		c.change(func() {
			now := metav1.Now()
			c.state = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError",
				Message: err.Error(), StartedAt: now, FinishedAt: now}}
		})
		c.pod.event(v1.EventTypeWarning, "Failed", err.Error())
		return nil
	}
	c.change(func() {
		c.proc, c.init, c.log = proc, spec, path
		c.started = c.spec.StartupProbe == nil
		c.ready = c.started && c.spec.ReadinessProbe == nil
		c.state = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(proc.started)}}
	})
	c.pod.event(v1.EventTypeNormal, "Started", "Container started")
	if h := c.spec.Lifecycle; h != nil && h.PostStart != nil {
		if err := c.hook(c.pod.ctx, proc, h.PostStart); err != nil {
			c.pod.event(v1.EventTypeWarning, "FailedPostStartHook", err.Error())
			proc.stop(c.grace(nil), c.pod.hurry)
		}
	}
	return nil
}

func (c *container) grace(probe *v1.Probe) time.Duration {
	s := int64(30)
	if own := c.pod.object().Spec.TerminationGracePeriodSeconds; own != nil {
		s = *own
	}
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		s = *probe.TerminationGracePeriodSeconds
	}
	return time.Duration(s) * time.Second
}

// describe turns the API's container into what its first process is told.
func (c *container) describe(obj *v1.Pod, img image) (*initSpec, error) {
	ip := c.pod.network().ip
	hostname := cmp.Or(obj.Spec.Hostname, obj.Name)
	hosts := "127.0.0.1\tlocalhost\n" + ip + "\t"
	if obj.Spec.Subdomain != "" {
		hosts += hostname + "." + obj.Spec.Subdomain + "." + obj.Namespace + ".svc." + domain + "\t"
	}
	hosts += hostname + "\n"
	for _, alias := range obj.Spec.HostAliases {
		hosts += alias.IP + "\t" + strings.Join(alias.Hostnames, "\t") + "\n"
	}
	s := &initSpec{Work: filepath.Join(c.pod.node.rig.Dir, "mnt"), Hostname: hostname, Image: img, Dir: cmp.Or(c.spec.WorkingDir, img.WorkingDir, "/"),
		Files: map[string]string{"/etc/hosts": hosts, "/etc/hostname": hostname + "\n", "/etc/resolv.conf": fmt.Sprintf(
			"nameserver %s\nsearch %s.svc.%s svc.%s %s\noptions ndots:5\n", dnsAddress, obj.Namespace, domain, domain, domain)}}
	env, err := c.environment(obj, img)
	if err != nil {
		return nil, err
	}
	for name, value := range env {
		s.Env = append(s.Env, name+"="+value)
	}
	s.Argv = expandAll(env, c.command(img))
	if len(s.Argv) == 0 {
		return nil, fmt.Errorf("neither the container nor its image has a command")
	}
	if err := c.identity(obj, img, s); err != nil {
		return nil, err
	}
	return s, c.mounts(env, s)
}

func (c *container) command(img image) []string {
	if len(c.spec.Command) > 0 {
		return append(append([]string{}, c.spec.Command...), c.spec.Args...)
	}
	if len(c.spec.Args) > 0 {
		return append(append([]string{}, img.Entrypoint...), c.spec.Args...)
	}
	return append(append([]string{}, img.Entrypoint...), img.Cmd...)
}

func expandAll(env map[string]string, texts []string) []string {
	out := make([]string, len(texts))
	for i, text := range texts {
		out[i] = expansion.Expand(text, expansion.MappingFuncFor(env))
	}
	return out
}

// identity: the container's security context before the pod's before the image's.
func (c *container) identity(obj *v1.Pod, img image, s *initSpec) error {
	user, group, _ := strings.Cut(img.User, ":")
	s.UID, _ = strconv.Atoi(user)
	s.GID, _ = strconv.Atoi(group)
	nonRoot := false
	if p := obj.Spec.SecurityContext; p != nil {
		override(&s.UID, p.RunAsUser)
		override(&s.GID, p.RunAsGroup)
		nonRoot = p.RunAsNonRoot != nil && *p.RunAsNonRoot
		for _, g := range p.SupplementalGroups {
			s.Groups = append(s.Groups, int(g))
		}
		if p.FSGroup != nil {
			s.Groups = append(s.Groups, int(*p.FSGroup))
		}
	}
	keep := map[v1.Capability]bool{}
	for name := range defaultCapabilities {
		keep[name] = true
	}
	if own := c.spec.SecurityContext; own != nil {
		override(&s.UID, own.RunAsUser)
		override(&s.GID, own.RunAsGroup)
		if own.RunAsNonRoot != nil {
			nonRoot = *own.RunAsNonRoot
		}
		s.ReadOnlyRoot = own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem
		s.NoNewPrivs = own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation
		if own.Capabilities != nil {
			for _, name := range own.Capabilities.Drop {
				delete(keep, name)
				if name == "ALL" {
					keep = map[v1.Capability]bool{}
				}
			}
		}
	}
	for name := range keep {
		s.Capabilities = append(s.Capabilities, defaultCapabilities[name])
	}
	if nonRoot && s.UID == 0 {
		return fmt.Errorf("container has runAsNonRoot and image will run as root")
	}
	return nil
}

func override(to *int, from *int64) {
	if from != nil {
		*to = int(*from)
	}
}

// defaultCapabilities are those a container runtime gives; none can be added here.
var defaultCapabilities = map[v1.Capability]uintptr{"CHOWN": unix.CAP_CHOWN, "DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE,
	"FSETID": unix.CAP_FSETID, "FOWNER": unix.CAP_FOWNER, "MKNOD": unix.CAP_MKNOD, "NET_RAW": unix.CAP_NET_RAW,
	"SETGID": unix.CAP_SETGID, "SETUID": unix.CAP_SETUID, "SETFCAP": unix.CAP_SETFCAP, "SETPCAP": unix.CAP_SETPCAP,
	"NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE, "SYS_CHROOT": unix.CAP_SYS_CHROOT, "KILL": unix.CAP_KILL,
	"AUDIT_WRITE": unix.CAP_AUDIT_WRITE}

func (c *container) mounts(env map[string]string, s *initSpec) error {
	for _, m := range c.spec.VolumeMounts {
		source := c.pod.volumes.path[m.Name]
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expansion.Expand(m.SubPathExpr, expansion.MappingFuncFor(env))
		}
		if sub != "" {
			source = filepath.Join(source, filepath.Clean("/"+sub))
			if _, err := os.Stat(source); err != nil {
				if err := os.MkdirAll(source, 0o755); err != nil {
					return err
				}
				if group := fsGroup(c.pod.object()); group >= 0 {
					if err := giveGroup(source, group); err != nil {
						return err
					}
				}
			}
			resolved, err := filepath.EvalSymlinks(source)
			if err != nil {
				return err
			}
			source = resolved
		}
		s.Mounts = append(s.Mounts, mountSpec{source, m.MountPath, m.ReadOnly})
	}
	path := c.messagePath()
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return err
	}
	s.Mounts = append(s.Mounts, mountSpec{path, c.spec.TerminationMessagePath, false})
	return nil
}
