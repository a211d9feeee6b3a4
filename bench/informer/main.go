// Command informer is the peer of bench/run watch-sync and watch-events: client-go's SharedInformer on all pods. It also
// makes the pods and changes them.
//
//	informer KUBECONFIG watch json|protobuf|metadata
//	informer KUBECONFIG make COUNT ETCD
//	informer KUBECONFIG update COUNT OBJECTS SECONDS
//
// update ends after SECONDS, whatever it has done. watch prints {"synced": N} when the cache is complete, and for each line on its standard input what it has seen since
// the last one; it ends with its input.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	namespace = "bench"
	stamp     = "bench.shardherd.io/at" // when the change was sent, microseconds
	writers   = 32
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	if len(os.Args) < 4 {
		log.Fatal("usage: informer KUBECONFIG watch json|protobuf|metadata | make COUNT ETCD | update COUNT OBJECTS SECONDS")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	check(err)
	switch os.Args[2] {
	case "watch":
		watch(config, os.Args[3])
	case "make":
		makePods(config, number(os.Args[3]), os.Args[4])
	case "update":
		updatePods(config, number(os.Args[3]), number(os.Args[4]), time.Duration(number(os.Args[5]))*time.Second)
	}
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	check(err)
	return n
}

// ---- watching ----

func newInformer(config *rest.Config, mode string) cache.SharedIndexInformer {
	if mode == "metadata" {
		client, err := metadata.NewForConfig(config)
		check(err)
		return metadatainformer.NewFilteredMetadataInformer(client, core.SchemeGroupVersion.WithResource("pods"),
			meta.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	}
	if mode == "protobuf" {
		config.ContentType = runtime.ContentTypeProtobuf
		config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	client, err := kubernetes.NewForConfig(config)
	check(err)
	return informers.NewSharedInformerFactory(client, 0).Core().V1().Pods().Informer()
}

type seen struct {
	mu     sync.Mutex
	delays []int64
}

func (s *seen) change(_, now any) {
	at, err := strconv.ParseInt(now.(meta.Object).GetAnnotations()[stamp], 10, 64)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.delays = append(s.delays, time.Now().UnixMicro()-at)
	s.mu.Unlock()
}

func (s *seen) report() {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.delays)
	at := func(q float64) int64 {
		if len(s.delays) == 0 {
			return 0
		}
		return s.delays[min(len(s.delays)-1, int(q*float64(len(s.delays))))]
	}
	fmt.Printf("{\"events\":%d,\"p50_us\":%d,\"p99_us\":%d,\"max_us\":%d}\n", len(s.delays), at(0.5), at(0.99), at(1))
	s.delays = s.delays[:0]
}

func watch(config *rest.Config, mode string) {
	informer := newInformer(config, mode)
	var s seen
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: s.change})
	check(err)
	go informer.Run(context.Background().Done())
	for !informer.HasSynced() {
		time.Sleep(time.Millisecond) // WaitForCacheSync looks each 100 ms only
	}
	fmt.Printf("{\"synced\":%d}\n", len(informer.GetStore().ListKeys()))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		s.report()
	}
}

// ---- making ----

func writer(config *rest.Config) kubernetes.Interface {
	own := rest.CopyConfig(config)
	own.ContentType = runtime.ContentTypeProtobuf
	own.QPS = -1
	own.TLSClientConfig.NextProtos = []string{"http/1.1"} // a connection for each
	client, err := kubernetes.NewForConfig(own)
	check(err)
	return client
}

// each calls work for 0 to count-1, from many writers.
func each(count int, config *rest.Config, work func(client kubernetes.Interface, i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			client := writer(config)
			for i := int(next.Add(1)) - 1; i < count; i = int(next.Add(1)) - 1 {
				work(client, i)
			}
		}()
	}
	wg.Wait()
}

// makePods has the API server make two pods, one with our label, and writes copies of them into its etcd: the server takes
// a hundred times as long for each. It reads them as its own.
func makePods(config *rest.Config, count int, etcd string) {
	ctx := context.Background()
	client := writer(config)
	_, err := client.CoreV1().Namespaces().Create(ctx,
		&core.Namespace{ObjectMeta: meta.ObjectMeta{Name: namespace}}, meta.CreateOptions{})
	check(err)
	_, err = client.CoreV1().ServiceAccounts(namespace).Create(ctx,
		&core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: "checkout"}}, meta.CreateOptions{})
	check(err)
	var models []*core.Pod
	for i := range 2 {
		pod, err := client.CoreV1().Pods(namespace).Create(ctx, newPod(i), meta.CreateOptions{FieldManager: "kube-controller-manager"})
		check(err)
		models = append(models, pod)
	}
	text, err := json.Marshal(models[0])
	check(err)
	for first := 2; first < count; first += 64 {
		putPods(etcd, models, first, min(first+64, count))
	}
	fmt.Printf("{\"bytes\":%d}\n", len(text))
}

// putPods writes pods first to end-1 in one transaction, over etcd's JSON gateway.
func putPods(etcd string, models []*core.Pod, first, end int) {
	type put struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	}
	type operation struct {
		Put put `json:"requestPut"`
	}
	stored := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	var puts []operation
	for i := first; i < end; i++ {
		pod := models[min(1, i%100)].DeepCopy()
		pod.Name, pod.ResourceVersion = podName(i), ""
		pod.UID = types.UID(fmt.Sprintf("5f1b7c9e-0d7a-4e58-9c1e-%012x", i))
		pod.TypeMeta = meta.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		value, err := runtime.Encode(stored, pod)
		check(err)
		puts = append(puts, operation{put{[]byte("/registry/pods/" + namespace + "/" + pod.Name), value}})
	}
	body, err := json.Marshal(map[string]any{"success": puts})
	check(err)
	answer, err := http.Post(etcd+"/v3/kv/txn", "application/json", bytes.NewReader(body))
	check(err)
	text, err := io.ReadAll(answer.Body)
	check(err)
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		log.Fatalf("etcd: %s: %s", answer.Status, text)
	}
}

func updatePods(config *rest.Config, count, objects int, most time.Duration) {
	ctx := context.Background()
	start := time.Now()
	var done atomic.Int64
	each(count, config, func(client kubernetes.Interface, i int) {
		if time.Since(start) > most {
			return
		}
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"%d"}}}`, stamp, time.Now().UnixMicro())
		_, err := client.CoreV1().Pods(namespace).Patch(ctx, podName(i%objects), types.MergePatchType, []byte(patch),
			meta.PatchOptions{})
		check(err)
		done.Add(1)
	})
	fmt.Printf("{\"changes\":%d,\"seconds\":%.3f}\n", done.Load(), time.Since(start).Seconds())
}

func podName(i int) string { return fmt.Sprintf("checkout-frontend-7d9c5b6f4-%05d", i) }

// newPod is a pod as they are: three containers, many variables and mounts. As JSON, with what the server adds, some 16 kB.
func newPod(i int) *core.Pod {
	labels := map[string]string{"app.kubernetes.io/name": "checkout-frontend", "app.kubernetes.io/part-of": "shop",
		"app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "checkout-4.17.2", "pod-template-hash": "7d9c5b6f4"}
	if i%100 == 0 {
		labels["app.kubernetes.io/managed-by"] = "shardherd"
	}
	pod := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: podName(i), Namespace: namespace, Labels: labels,
		Annotations: map[string]string{
			"checksum/config":       strings.Repeat("0f3a", 16),
			"prometheus.io/scrape":  "true",
			"prometheus.io/port":    "9102",
			"sidecar.istio.io/note": strings.Repeat("injected proxy; ", 20),
		},
		OwnerReferences: []meta.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "checkout-frontend-7d9c5b6f4",
			UID: "0b9a7a3e-8f2f-4a53-9e0c-3c1b0a7d5e11"}},
	}}
	pod.Spec.ServiceAccountName = "checkout"
	pod.Spec.SchedulerName = "nobody" // in a cluster with a scheduler they only stand there
	pod.Spec.NodeSelector = map[string]string{"kubernetes.io/os": "linux", "pool": "general"}
	for n := range 5 {
		pod.Spec.Volumes = append(pod.Spec.Volumes, core.Volume{Name: fmt.Sprintf("settings-%d", n),
			VolumeSource: core.VolumeSource{ConfigMap: &core.ConfigMapVolumeSource{
				LocalObjectReference: core.LocalObjectReference{Name: fmt.Sprintf("checkout-settings-%d", n)}}}})
	}
	for n := range 3 {
		pod.Spec.Containers = append(pod.Spec.Containers, newContainer(n))
	}
	return pod
}

func newContainer(n int) core.Container {
	c := core.Container{Name: fmt.Sprintf("container-%d", n), Image: "registry.example.com/shop/checkout-frontend:4.17.2",
		Args: []string{"--listen=0.0.0.0:8080", "--upstream=http://payments.shop.svc.cluster.local:8080", "--log-format=json"}}
	for v := range 13 {
		c.Env = append(c.Env, core.EnvVar{Name: fmt.Sprintf("CHECKOUT_SETTING_%02d", v), Value: fmt.Sprintf("value-of-setting-%02d-in-production", v)})
	}
	for v := range 5 {
		c.VolumeMounts = append(c.VolumeMounts, core.VolumeMount{Name: fmt.Sprintf("settings-%d", v),
			MountPath: fmt.Sprintf("/etc/checkout/settings-%d", v), ReadOnly: true})
	}
	amounts := core.ResourceList{core.ResourceCPU: resource.MustParse("250m"), core.ResourceMemory: resource.MustParse("256Mi")}
	c.Resources = core.ResourceRequirements{Requests: amounts, Limits: amounts}
	c.Ports = []core.ContainerPort{{Name: "http", ContainerPort: int32(8080 + n)}}
	probe := &core.Probe{ProbeHandler: core.ProbeHandler{HTTPGet: &core.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")}}}
	c.LivenessProbe, c.ReadinessProbe = probe, probe.DeepCopy()
	return c
}
