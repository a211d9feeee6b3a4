// Command kubelet is test equipment: nodes of a Kubernetes cluster whose pods are processes of this machine.
//
// One program plays several nodes. It keeps their leases and status, runs the containers of the pods bound to them in
// namespaces of their own, and reports what really happened to the processes. Beside that it stands in for what a
// cluster has around its nodes: a proxy on the cluster addresses of services, DNS, and a provisioner of volumes.
//
// It runs inside a network namespace that the caller made, with a bridge br0 (see tests/kube/cluster.py), and is asked
// for faults over a unix socket (control.go). It never touches the objects of what is under test except as a node does.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// config is what the caller wrote into the file named on the command line.
type config struct {
	Name           string            // of this rig; names the cgroups
	Dir            string            // volumes, logs, the control socket
	Kubeconfig     string            // of an administrator; its server is reachable from the bridge
	Nodes          int               // node-1 to node-N
	Images         map[string]image  // by the name that pods use
	LeaseSeconds   float64           // between two heartbeats
	BackoffSeconds float64           // first delay of a crash loop; doubles up to 30 times that
	NodeLabels     map[string]string // on every node
}

// image says how the host's root becomes a container's: there are no layers, only additions.
type image struct {
	Entrypoint []string
	Cmd        []string
	Env        map[string]string
	User       string // "uid" or "uid:gid"
	WorkingDir string
	Binds      map[string]string // path in the container -> path of the host, read-only
	Dirs       map[string]string // directories to make, with their octal mode
	Passwd     []string          // lines of /etc/passwd that replace those of the same name or uid
}

// rig is everything there is one of.
type rig struct {
	config
	rest    *rest.Config
	client  kubernetes.Interface // of what stands beside the nodes; not cut when a node is
	spawner chan func()
	mu      sync.Mutex
	nodes   map[string]*node
	links   int // ever made; names the next
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "init" {
		containerInit()
	}
	if len(os.Args) != 2 {
		log.Fatal("usage: kubelet CONFIG.json")
	}
	r := &rig{nodes: map[string]*node{}, spawner: make(chan func())}
	text, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = json.Unmarshal(text, &r.config)
	}
	if err == nil {
		r.rest, err = clientcmd.BuildConfigFromFlags("", r.Kubeconfig)
	}
	if err != nil {
		log.Fatal(err)
	}
	r.rest.QPS, r.rest.Burst = 200, 400
	r.client = kubernetes.NewForConfigOrDie(r.rest)
	go r.spawn()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if err := r.run(ctx); err != nil {
		log.Print(err)
		defer os.Exit(1)
	}
	r.end()
}

func (r *rig) run(ctx context.Context) error {
	if err := os.Chdir(r.Dir); err != nil { // the path of a unix socket is short
		return err
	}
	for _, name := range []string{"mnt", "pods", "volumes", "logs"} {
		if err := os.MkdirAll(filepath.Join(r.Dir, name), 0o755); err != nil {
			return err
		}
	}
	if err := r.startProvisioner(ctx); err != nil {
		return err
	}
	if err := r.startServices(ctx); err != nil {
		return err
	}
	for i := 1; i <= r.Nodes; i++ {
		n := &node{rig: r, name: "node-" + strconv.Itoa(i), index: i}
		r.nodes[n.name] = n
		if err := n.start(); err != nil {
			return err
		}
	}
	return r.serveControl(ctx)
}

// end leaves no process, namespace or cgroup behind: namespaces go with the last process or descriptor.
func (r *rig) end() {
	for _, n := range r.nodes {
		n.kill()
	}
	removeCgroups(r.Name)
}

// spawn starts every child: a child's parent-death signal is tied to the thread that made it, so this one never ends.
func (r *rig) spawn() {
	runtime.LockOSThread()
	for f := range r.spawner {
		f()
	}
}

// onSpawner runs f on the spawning thread and waits for it.
func (r *rig) onSpawner(f func() error) error {
	done := make(chan error)
	r.spawner <- func() { done <- f() }
	return <-done
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
