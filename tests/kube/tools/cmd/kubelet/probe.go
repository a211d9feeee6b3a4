package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type probeKind string

const (
	startup   probeKind = "Startup"
	liveness  probeKind = "Liveness"
	readiness probeKind = "Readiness"
)

func (c *container) startProbes(ctx context.Context) {
	again := make(chan struct{}, 1) // the end of startup has readiness looked at at once
	for kind, probe := range map[probeKind]*v1.Probe{startup: c.spec.StartupProbe, liveness: c.spec.LivenessProbe,
		readiness: c.spec.ReadinessProbe} {
		if probe != nil {
			go c.watchHealth(ctx, kind, probe, again)
		}
	}
}

// watchHealth probes every period, counted from here and not from the start of the process, as a kubelet does.
func (c *container) watchHealth(ctx context.Context, kind probeKind, probe *v1.Probe, again chan struct{}) {
	tick := time.NewTicker(time.Duration(max(probe.PeriodSeconds, 1)) * time.Second)
	defer tick.Stop()
	now := again
	if kind != readiness {
		now = nil
	}
	var seen *process
	var good, bad int32
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-now:
		}
		proc := c.running()
		if proc != seen {
			seen, good, bad = proc, 0, 0
		}
		if proc == nil || c.pod.node.frozen.Load() || c.isStarted() == (kind == startup) ||
			time.Since(proc.started) < time.Duration(probe.InitialDelaySeconds)*time.Second {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, time.Duration(max(probe.TimeoutSeconds, 1))*time.Second)
		err := c.check(limit, proc, &probe.ProbeHandler)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
			c.pod.event(v1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %v", kind, err))
		}
		if good >= max(probe.SuccessThreshold, 1) {
			c.healthy(kind, proc)
			if kind == startup {
				wake(again)
			}
		} else if bad >= max(probe.FailureThreshold, 1) {
			c.unhealthy(kind, proc, probe)
		}
	}
}

func (c *container) healthy(kind probeKind, proc *process) {
	c.change(func() {
		if c.proc != proc {
			return
		}
		if kind == startup {
			c.started = true
			c.ready = c.spec.ReadinessProbe == nil
		}
		if kind == readiness {
			c.ready = true
		}
	})
}

func (c *container) unhealthy(kind probeKind, proc *process, probe *v1.Probe) {
	if kind == readiness {
		c.change(func() { c.ready = c.ready && c.proc != proc })
		return
	}
	c.pod.event(v1.EventTypeNormal, "Killing", fmt.Sprintf("Container %s failed %s probe, will be restarted",
		c.spec.Name, strings.ToLower(string(kind))))
	c.end(proc, c.grace(probe))
}

// check runs one probe or hook; network ones are dialled from inside the pod's namespace.
func (c *container) check(ctx context.Context, proc *process, h *v1.ProbeHandler) error {
	l := c.pod.network()
	if l == nil {
		return errors.New("the pod has no network")
	}
	switch {
	case h.Exec != nil:
		c.pod.mu.Lock()
		spec := c.init
		c.pod.mu.Unlock()
		result, err := c.pod.node.rig.enter(ctx, proc, spec, h.Exec.Command, "")
		if err == nil && result.Code != 0 {
			err = fmt.Errorf("exit code %d: %s%s", result.Code, result.Stdout, result.Stderr)
		}
		return err
	case h.TCPSocket != nil:
		conn, err := l.dial(ctx, "tcp4", c.address(l, h.TCPSocket.Host, h.TCPSocket.Port))
		if err == nil {
			conn.Close()
		}
		return err
	case h.HTTPGet != nil:
		return c.get(ctx, l, h.HTTPGet)
	}
	return errors.New("this kind of probe is not supported by the test kubelet")
}

func (c *container) address(l *link, host string, port intstr.IntOrString) string {
	number := port.IntValue()
	for _, p := range c.spec.Ports {
		if port.Type == intstr.String && p.Name == port.StrVal {
			number = int(p.ContainerPort)
		}
	}
	if host == "" {
		host = l.ip
	}
	return net.JoinHostPort(host, strconv.Itoa(number))
}

func (c *container) get(ctx context.Context, l *link, h *v1.HTTPGetAction) error {
	url := strings.ToLower(string(h.Scheme)) + "://" + c.address(l, h.Host, h.Port) + "/" + strings.TrimPrefix(h.Path, "/")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "kube-probe/1.35")
	for _, header := range h.HTTPHeaders {
		if strings.EqualFold(header.Name, "Host") {
			request.Host = header.Value
		}
		request.Header.Add(header.Name, header.Value)
	}
	transport := &http.Transport{DialContext: l.dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // as the kubelet's
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", answer.StatusCode)
	}
	return nil
}
