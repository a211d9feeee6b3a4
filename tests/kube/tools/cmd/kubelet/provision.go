package main

import (
	"context"
	"log"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// provisioner serves one StorageClass, the default: a claim gets a directory of the host, reachable from every node as
// a network disk is. A claim that grows is granted what it asks for; sizes are not enforced.
type provisioner struct {
	rig     *rig
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
}

const (
	className       = "shardherd-test"
	provisionerName = "shardherd.test/directory"
)

func (r *rig) startProvisioner(ctx context.Context) error {
	grow := true
	class := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: className,
			Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: provisionerName, AllowVolumeExpansion: &grow,
	}
	if _, err := r.client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil &&
		!apierrors.IsAlreadyExists(err) {
		return err
	}
	factory := informers.NewSharedInformerFactory(r.client, 0)
	p := &provisioner{rig: r, claims: factory.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: factory.Core().V1().PersistentVolumes().Lister()}
	changed := make(chan struct{}, 1)
	handler := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { wake(changed) },
		UpdateFunc: func(any, any) { wake(changed) }, DeleteFunc: func(any) { wake(changed) }}
	_, _ = factory.Core().V1().PersistentVolumeClaims().Informer().AddEventHandler(handler)
	_, _ = factory.Core().V1().PersistentVolumes().Informer().AddEventHandler(handler)
	factory.Start(ctx.Done())
	go func() {
		factory.WaitForCacheSync(ctx.Done())
		for {
			if err := p.sync(ctx); err != nil {
				log.Printf("provisioner: %v", err)
				time.AfterFunc(time.Second, func() { wake(changed) })
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return nil
}

func (p *provisioner) sync(ctx context.Context) error {
	claims, _ := p.claims.List(labels.Everything())
	for _, claim := range claims {
		if claim.Spec.StorageClassName == nil || *claim.Spec.StorageClassName != className || claim.DeletionTimestamp != nil {
			continue
		}
		var err error
		if claim.Status.Phase == v1.ClaimBound {
			err = p.expand(ctx, claim)
		} else if claim.Spec.VolumeName == "" {
			err = p.provision(ctx, claim)
		}
		if err != nil {
			return err
		}
	}
	volumes, _ := p.volumes.List(labels.Everything())
	for _, volume := range volumes {
		if volume.Annotations["pv.kubernetes.io/provisioned-by"] == provisionerName && volume.DeletionTimestamp == nil &&
			volume.Status.Phase == v1.VolumeReleased && volume.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete {
			if err := os.RemoveAll(volume.Spec.HostPath.Path); err != nil {
				return err
			}
			err := p.rig.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	return nil
}

func (p *provisioner) provision(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.rig.Dir, "volumes", name)
	if err := makeDir(path, 0o777); err != nil {
		return err
	}
	volume := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": provisionerName}},
		Spec: v1.PersistentVolumeSpec{
			Capacity:                      v1.ResourceList{v1.ResourceStorage: claim.Spec.Resources.Requests[v1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			StorageClassName:              className,
			ClaimRef: &v1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace,
				Name: claim.Name, UID: claim.UID},
			PersistentVolumeSource: v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}},
		},
	}
	_, err := p.rig.client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (p *provisioner) expand(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	want, have := claim.Spec.Resources.Requests[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage]
	if want.Cmp(have) <= 0 {
		return nil
	}
	volumes := p.rig.client.CoreV1().PersistentVolumes()
	volume, err := volumes.Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	volume.Spec.Capacity[v1.ResourceStorage] = want
	if _, err = volumes.Update(ctx, volume, metav1.UpdateOptions{}); err != nil {
		return err
	}
	grown := claim.DeepCopy()
	grown.Status.Capacity[v1.ResourceStorage] = want
	_, err = p.rig.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, grown, metav1.UpdateOptions{})
	return err
}
