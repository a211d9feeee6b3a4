package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Every pod and every node has a network namespace of its own, one veth from the bridge. An end knows only the bridge
// as its neighbour, by an entry that does not expire: a cut link therefore swallows packets in both directions, as on
// a routed network, instead of failing to find its neighbour.

const (
	bridge        = "br0"
	bridgeAddress = "10.244.0.1"
	bridgeMAC     = "02:00:0a:f4:00:01"
	dnsAddress    = "10.96.0.10"
)

type link struct {
	rig  *rig
	name string // of the end on the bridge
	ip   string
	ns   *os.File // keeps the namespace; it has no name anywhere
}

// inNamespace runs f on a thread that has joined ns and ends with it: sockets made there belong to ns.
func inNamespace(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func newNamespace() (ns *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
	}()
	<-done
	return ns, err
}

// ip runs lines of `ip -batch`, in ns unless that is nil.
func (r *rig) ip(ns *os.File, lines ...string) error {
	argv := []string{"ip", "-batch", "-"}
	if ns != nil {
		argv = append([]string{"nsenter", "--net=" + nsPath(ns)}, argv...)
	}
	var out bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(lines, "; "), err, out.String())
	}
	return nil
}

func nsPath(ns *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()) }

func (r *rig) newLink(ip string) (*link, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.links++
	l := &link{rig: r, name: fmt.Sprintf("p%d", r.links), ip: ip, ns: ns}
	r.mu.Unlock()
	a := net.ParseIP(ip).To4()
	mac := fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3])
	err = r.ip(nil,
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %s", l.name, mac, nsPath(ns)),
		fmt.Sprintf("link set %s master %s up", l.name, bridge),
		fmt.Sprintf("neigh replace %s lladdr %s nud permanent dev %s", ip, mac, bridge))
	if err == nil {
		err = r.ip(ns, "link set lo up", "link set eth0 up", "addr add "+ip+"/32 dev eth0",
			"neigh replace "+bridgeAddress+" lladdr "+bridgeMAC+" nud permanent dev eth0",
			"route add "+bridgeAddress+" dev eth0", "route add default via "+bridgeAddress+" dev eth0")
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// cut takes the link off the bridge, or puts it back.
func (l *link) cut(off bool) error {
	if off {
		return l.rig.ip(nil, "link set "+l.name+" nomaster")
	}
	return l.rig.ip(nil, "link set "+l.name+" master "+bridge)
}

// close takes the address away; the namespace goes with its last process and connection.
func (l *link) close() {
	_ = l.rig.ip(nil, "link del "+l.name)
	_ = l.rig.ip(nil, "neigh del "+l.ip+" dev "+bridge)
	l.ns.Close()
}

func (l *link) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	nsErr := inNamespace(l.ns, func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return nil
	})
	if nsErr != nil {
		return nil, nsErr
	}
	return conn, err
}

func (l *link) listen(address string) (listener net.Listener, err error) {
	nsErr := inNamespace(l.ns, func() error {
		listener, err = net.Listen("tcp4", address)
		return nil
	})
	if nsErr != nil {
		return nil, nsErr
	}
	return listener, err
}
