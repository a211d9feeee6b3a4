// Package tools pins the versions of the control plane that the tests in tests/kube run.
//
// etcd is a library here (cmd/etcd calls its main); the Kubernetes programs are built from the module itself.
package tools

import (
	_ "go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/kubernetes/cmd/kube-apiserver/app"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	_ "k8s.io/kubernetes/cmd/kube-scheduler/app"
)
