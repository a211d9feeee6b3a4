package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	domain     = "cluster.local"
	apiAddress = "10.96.0.1"
)

// services stands in for kube-proxy and DNS. All cluster addresses are local to the rig's namespace; one with ready
// endpoints is listened on, one without refuses. The proxy dials after it accepted, and shows its own address.
type services struct {
	rig    *rig
	svc    corelisters.ServiceLister
	slices discoverylisters.EndpointSliceLister
	mu     sync.Mutex
	ports  map[string]*servicePort
	turn   int
}

type servicePort struct {
	listener net.Listener
	backends []string
}

func (r *rig) startServices(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(r.client, 0)
	s := &services{rig: r, ports: map[string]*servicePort{}}
	s.svc = factory.Core().V1().Services().Lister()
	s.slices = factory.Discovery().V1().EndpointSlices().Lister()
	changed := make(chan struct{}, 1)
	handler := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { wake(changed) },
		UpdateFunc: func(any, any) { wake(changed) }, DeleteFunc: func(any) { wake(changed) }}
	_, _ = factory.Core().V1().Services().Informer().AddEventHandler(handler)
	_, _ = factory.Discovery().V1().EndpointSlices().Informer().AddEventHandler(handler)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	go func() {
		for {
			s.sync()
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-time.After(time.Second): // node ports of a node that was started
			}
		}
	}()
	return s.serveDNS()
}

// ready calls f for each endpoint of the service that may be sent to.
func (s *services) ready(svc *v1.Service, f func(*discovery.EndpointSlice, *discovery.Endpoint)) {
	selector := labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: svc.Name})
	slices, _ := s.slices.EndpointSlices(svc.Namespace).List(selector)
	for _, slice := range slices {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if slice.AddressType == discovery.AddressTypeIPv4 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				f(slice, e)
			}
		}
	}
}

func (s *services) backends(svc *v1.Service, name string) (found []string) {
	s.ready(svc, func(slice *discovery.EndpointSlice, e *discovery.Endpoint) {
		for _, p := range slice.Ports {
			own := p.Name != nil && *p.Name == name || p.Name == nil && name == ""
			if own && p.Port != nil {
				found = append(found, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))))
			}
		}
	})
	return found
}

// sync makes the listeners those that services and endpoints ask for. Connections outlive their listener.
func (s *services) sync() {
	wanted := map[string][]string{} // by address, or "node/NAME/PORT"
	all, _ := s.svc.List(labels.Everything())
	for _, svc := range all {
		for _, p := range svc.Spec.Ports {
			backends := s.backends(svc, p.Name)
			if len(backends) == 0 || p.Protocol != v1.ProtocolTCP && p.Protocol != "" {
				continue
			}
			if ip := svc.Spec.ClusterIP; ip != "" && ip != v1.ClusterIPNone {
				wanted[net.JoinHostPort(ip, strconv.Itoa(int(p.Port)))] = backends
			}
			if p.NodePort != 0 {
				for name := range s.rig.nodes {
					wanted[fmt.Sprintf("node/%s/%d", name, p.NodePort)] = backends
				}
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, port := range s.ports {
		if wanted[key] == nil {
			port.listener.Close()
			delete(s.ports, key)
		}
	}
	for key, backends := range wanted {
		if s.ports[key] == nil {
			if l, err := s.listen(key); err == nil {
				s.ports[key] = &servicePort{listener: l}
				go s.accept(key, l)
			} else if !strings.HasPrefix(key, "node/") {
				log.Printf("service on %s: %v", key, err)
			}
		}
		if port := s.ports[key]; port != nil {
			port.backends = backends
		}
	}
}

func (s *services) listen(key string) (net.Listener, error) {
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return net.Listen("tcp4", key)
	}
	n := s.rig.nodes[parts[1]]
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.alive {
		return nil, net.ErrClosed
	}
	return n.link.listen("0.0.0.0:" + parts[2])
}

func (s *services) accept(key string, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		address := ""
		if port := s.ports[key]; port != nil && len(port.backends) > 0 {
			s.turn++
			address = port.backends[s.turn%len(port.backends)]
		}
		s.mu.Unlock()
		go relay(conn.(*net.TCPConn), address)
	}
}

// relay passes bytes and ends on; what breaks on one side breaks on the other.
func relay(client *net.TCPConn, address string) {
	defer client.Close()
	conn, err := net.DialTimeout("tcp4", address, 2*time.Minute)
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	pass := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil {
			_ = to.SetLinger(0)
			to.Close()
			from.Close()
			return
		}
		_ = to.CloseWrite()
	}
	done := make(chan struct{})
	go func() {
		pass(server, client)
		close(done)
	}()
	pass(client, server)
	<-done
}

// ---- DNS ----

// serveDNS answers over UDP only: no answer here is too long for it.
func (s *services) serveDNS() error {
	packets, err := net.ListenPacket("udp4", dnsAddress+":53")
	if err != nil {
		return err
	}
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer := s.answer(buffer[:n]); answer != nil {
				_, _ = packets.WriteTo(answer, from)
			}
		}
	}()
	return nil
}

func (s *services) answer(packet []byte) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(packet)
	if err != nil {
		return nil
	}
	question, err := parser.Question()
	if err != nil {
		return nil
	}
	ips, canonical, known := s.lookup(strings.ToLower(strings.TrimSuffix(question.Name.String(), ".")))
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true,
		RecursionDesired: header.RecursionDesired, RecursionAvailable: true}, Questions: []dnsmessage.Question{question}}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	record := func(kind dnsmessage.Type, body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{Body: body, Header: dnsmessage.ResourceHeader{
			Name: question.Name, Type: kind, Class: dnsmessage.ClassINET, TTL: 5}})
	}
	if name, err := dnsmessage.NewName(canonical + "."); canonical != "" && err == nil {
		record(dnsmessage.TypeCNAME, &dnsmessage.CNAMEResource{CNAME: name})
	}
	for _, ip := range ips {
		if question.Type == dnsmessage.TypeA {
			record(dnsmessage.TypeA, &dnsmessage.AResource{A: [4]byte(net.ParseIP(ip).To4())})
		}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// lookup knows SERVICE.NAMESPACE.svc.cluster.local and HOST.SERVICE.NAMESPACE.svc.cluster.local; nothing outside.
func (s *services) lookup(name string) (ips []string, canonical string, known bool) {
	inner, ok := strings.CutSuffix(name, ".svc."+domain)
	parts := strings.Split(inner, ".")
	if !ok || len(parts) < 2 || len(parts) > 3 {
		return nil, "", false
	}
	svc, err := s.svc.Services(parts[len(parts)-1]).Get(parts[len(parts)-2])
	if err != nil {
		return nil, "", false
	}
	if len(parts) == 2 {
		if svc.Spec.Type == v1.ServiceTypeExternalName {
			return nil, svc.Spec.ExternalName, true
		}
		if svc.Spec.ClusterIP != v1.ClusterIPNone {
			return []string{svc.Spec.ClusterIP}, "", true
		}
	}
	s.ready(svc, func(_ *discovery.EndpointSlice, e *discovery.Endpoint) {
		if len(parts) == 2 || e.Hostname != nil && *e.Hostname == parts[0] {
			ips = append(ips, e.Addresses[0])
		}
	})
	return ips, "", len(ips) > 0
}
