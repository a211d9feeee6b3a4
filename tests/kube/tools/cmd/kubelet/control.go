package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	certutil "k8s.io/client-go/util/cert"
)

const logsPort = 10250

// serveControl serves what tests ask for on DIR/control.sock until ctx ends:
//
//	POST /nodes/NODE/cut|restore|freeze|thaw|kill|start
//	POST /pods/NAMESPACE/NAME/cut|restore|freeze|thaw|tokens
//	POST /pods/NAMESPACE/NAME/signal?container=C&number=9    to the container's first process
//	POST /pods/NAMESPACE/NAME/exec?container=C&timeout=S     body {"Command": [...], "Stdin": ""}
//	GET  /pods/NAMESPACE/NAME                                addresses and processes
//	GET  /ready
func (r *rig) serveControl(ctx context.Context) error {
	listener, err := net.Listen("unix", "control.sock")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /nodes/{node}/{verb}", func(w http.ResponseWriter, q *http.Request) {
		n := r.nodes[q.PathValue("node")]
		if n == nil {
			reply(w, nil, errors.New("no such node"))
			return
		}
		reply(w, nil, n.obey(q.PathValue("verb")))
	})
	withPod := func(f func(*pod, *http.Request) (any, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, q *http.Request) {
			p := r.find(q.PathValue("namespace"), q.PathValue("name"))
			if p == nil {
				reply(w, nil, errors.New("no such pod on a node"))
				return
			}
			answer, err := f(p, q)
			reply(w, answer, err)
		}
	}
	mux.HandleFunc("POST /pods/{namespace}/{name}/{verb}", withPod((*pod).obey))
	mux.HandleFunc("GET /pods/{namespace}/{name}", withPod((*pod).describe))
	server := &http.Server{Handler: mux}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func reply(w http.ResponseWriter, answer any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (n *node) obey(verb string) error {
	switch verb {
	case "cut", "restore":
		return n.setCut(verb == "cut")
	case "freeze", "thaw":
		return n.setFrozen(verb == "freeze")
	case "kill":
		n.kill()
		return nil
	case "start":
		return n.start()
	}
	return errors.New("no such fault")
}

func (p *pod) obey(q *http.Request) (any, error) {
	switch verb := q.PathValue("verb"); verb {
	case "cut", "restore":
		p.cut.Store(verb == "cut")
		if l := p.network(); l != nil {
			return nil, l.cut(verb == "cut")
		}
		return nil, errors.New("the pod has no network")
	case "freeze", "thaw":
		return nil, p.freeze(verb == "freeze")
	case "tokens":
		p.volumesMu.Lock()
		p.volumes.tokens = map[string]token{}
		p.volumesMu.Unlock()
		wake(p.stale)
		return nil, nil
	}
	c, proc := p.named(q.URL.Query().Get("container"))
	if proc == nil {
		return nil, errors.New("the container does not run")
	}
	switch q.PathValue("verb") {
	case "signal":
		number, err := strconv.Atoi(q.URL.Query().Get("number"))
		if err == nil {
			err = syscall.Kill(proc.pid, syscall.Signal(number))
		}
		return nil, err
	case "exec":
		return c.exec(q, proc)
	}
	return nil, errors.New("no such fault")
}

func (c *container) exec(q *http.Request, proc *process) (any, error) {
	var ask struct {
		Command []string
		Stdin   string
	}
	if err := json.NewDecoder(q.Body).Decode(&ask); err != nil {
		return nil, err
	}
	limit, err := strconv.ParseFloat(q.URL.Query().Get("timeout"), 64)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(q.Context(), seconds(limit))
	defer cancel()
	c.pod.mu.Lock()
	spec := c.init
	c.pod.mu.Unlock()
	return c.pod.node.rig.enter(ctx, proc, spec, ask.Command, ask.Stdin)
}

// named is the container of that name, or the first, and its process.
func (p *pod) named(name string) (*container, *process) {
	for _, c := range append(append([]*container{}, p.mains...), p.inits...) {
		if name == "" || c.spec.Name == name {
			return c, c.running()
		}
	}
	return nil, nil
}

func (p *pod) describe(*http.Request) (any, error) {
	pids := map[string]int{}
	for _, c := range p.all() {
		if proc := c.running(); proc != nil {
			pids[c.spec.Name] = proc.pid
		}
	}
	answer := map[string]any{"node": p.node.name, "uid": p.uid, "pids": pids}
	if l := p.network(); l != nil {
		answer["ip"], answer["namespace"] = l.ip, nsPath(l.ns)
	}
	return answer, nil
}

// serveLogs is the part of a kubelet's own API that `kubectl logs` needs: the output of the newest run.
func (n *node) serveLogs(ctx context.Context, l *link) error {
	cert, key, err := certutil.GenerateSelfSignedCertKey(l.ip, nil, nil)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	listener, err := l.listen(fmt.Sprintf("0.0.0.0:%d", logsPort))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{name}/{container}", func(w http.ResponseWriter, q *http.Request) {
		n.logs(w, q)
	})
	server := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	context.AfterFunc(ctx, func() { server.Close() })
	go func() { _ = server.ServeTLS(listener, "", "") }()
	return nil
}

func (n *node) logs(w http.ResponseWriter, q *http.Request) {
	p := n.rig.find(q.PathValue("namespace"), q.PathValue("name"))
	if p == nil || p.node != n {
		http.Error(w, "no such pod", http.StatusNotFound)
		return
	}
	c, _ := p.named(q.PathValue("container"))
	if c == nil {
		http.Error(w, "no such container", http.StatusNotFound)
		return
	}
	p.mu.Lock()
	path := c.log
	p.mu.Unlock()
	file, err := os.Open(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer file.Close()
	for {
		if _, err := io.Copy(w, file); err != nil || q.URL.Query().Get("follow") != "true" {
			return
		}
		w.(http.Flusher).Flush()
		if !pause(q.Context(), 200*time.Millisecond) {
			return
		}
	}
}
