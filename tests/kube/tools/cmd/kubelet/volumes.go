package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
)

// volumes of one pod: directories of the host by name, and what was last written into the projected ones.
type volumes struct {
	pod    *pod
	path   map[string]string
	tokens map[string]token // by volume and path in it
}

type token struct {
	text    string
	renewal time.Time
}

// file is one entry of a projected volume.
type file struct {
	data []byte
	mode os.FileMode
}

// prepare makes all volumes of the pod, or says which one it could not make.
func (v *volumes) prepare(ctx context.Context, obj *v1.Pod) error {
	for i := range obj.Spec.Volumes {
		volume := &obj.Spec.Volumes[i]
		if err := v.prepareOne(ctx, obj, volume); err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", volume.Name, err)
		}
	}
	return nil
}

func (v *volumes) prepareOne(ctx context.Context, obj *v1.Pod, volume *v1.Volume) error {
	path := filepath.Join(v.pod.dir, "volumes", volume.Name)
	switch {
	case volume.HostPath != nil:
		path = volume.HostPath.Path
		if t := volume.HostPath.Type; t != nil && *t == v1.HostPathDirectoryOrCreate {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
		}
	case volume.EmptyDir != nil:
		if err := makeDir(path, 0o777); err != nil {
			return err
		}
	case volume.PersistentVolumeClaim != nil:
		var err error
		if path, err = v.claimPath(ctx, obj.Namespace, volume.PersistentVolumeClaim.ClaimName); err != nil {
			return err
		}
	default:
		if err := makeDir(path, 0o755); err != nil {
			return err
		}
		if err := v.project(ctx, obj, volume, path); err != nil {
			return err
		}
	}
	v.path[volume.Name] = path
	if group := fsGroup(obj); group >= 0 && (volume.EmptyDir != nil || volume.PersistentVolumeClaim != nil) {
		return giveGroup(path, group)
	}
	return nil
}

// giveGroup is what fsGroup does, to the root of a volume only: PostgreSQL refuses a data directory that its group may
// write, and a kubelet that finds the root right (OnRootMismatch) leaves the rest alone too.
func giveGroup(path string, group int) error {
	info, err := os.Stat(path)
	if err == nil {
		err = os.Chown(path, -1, group)
	}
	if err == nil {
		err = os.Chmod(path, info.Mode().Perm()|0o770|os.ModeSetgid)
	}
	return err
}

func fsGroup(obj *v1.Pod) int {
	if c := obj.Spec.SecurityContext; c != nil && c.FSGroup != nil {
		return int(*c.FSGroup)
	}
	return -1
}

func (v *volumes) claimPath(ctx context.Context, namespace, name string) (string, error) {
	client := v.pod.node.client.CoreV1()
	claim, err := client.PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if claim.Status.Phase != v1.ClaimBound {
		return "", fmt.Errorf("claim %s is not bound", name)
	}
	volume, err := client.PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if volume.Spec.HostPath == nil {
		return "", fmt.Errorf("persistent volume %s is no path of the host", volume.Name)
	}
	return volume.Spec.HostPath.Path, nil
}

// shows tells whether a volume of the pod has a ConfigMap or Secret of that name in it.
func shows(obj *v1.Pod, name string, secret bool) bool {
	for _, volume := range obj.Spec.Volumes {
		switch s := volume.VolumeSource; {
		case s.ConfigMap != nil && !secret && s.ConfigMap.Name == name, s.Secret != nil && secret && s.Secret.SecretName == name:
			return true
		case s.Projected != nil:
			for _, p := range s.Projected.Sources {
				if p.ConfigMap != nil && !secret && p.ConfigMap.Name == name || p.Secret != nil && secret && p.Secret.Name == name {
					return true
				}
			}
		}
	}
	return false
}

// refresh writes anew what changed in the projected volumes.
func (v *volumes) refresh(ctx context.Context, obj *v1.Pod) error {
	for i := range obj.Spec.Volumes {
		s := &obj.Spec.Volumes[i].VolumeSource
		if s.ConfigMap != nil || s.Secret != nil || s.Projected != nil || s.DownwardAPI != nil {
			path := v.path[obj.Spec.Volumes[i].Name]
			if err := v.project(ctx, obj, &obj.Spec.Volumes[i], path); err != nil {
				return fmt.Errorf("volume %q: %w", obj.Spec.Volumes[i].Name, err)
			}
		}
	}
	return nil
}

// project collects the files of a volume and swaps them in.
func (v *volumes) project(ctx context.Context, obj *v1.Pod, volume *v1.Volume, path string) error {
	var sources []v1.VolumeProjection
	mode := os.FileMode(0o644)
	setMode := func(m *int32) {
		if m != nil {
			mode = os.FileMode(*m)
		}
	}
	switch s := volume.VolumeSource; {
	case s.ConfigMap != nil:
		setMode(s.ConfigMap.DefaultMode)
		sources = []v1.VolumeProjection{{ConfigMap: &v1.ConfigMapProjection{
			LocalObjectReference: s.ConfigMap.LocalObjectReference, Items: s.ConfigMap.Items, Optional: s.ConfigMap.Optional}}}
	case s.Secret != nil:
		setMode(s.Secret.DefaultMode)
		sources = []v1.VolumeProjection{{Secret: &v1.SecretProjection{
			LocalObjectReference: v1.LocalObjectReference{Name: s.Secret.SecretName}, Items: s.Secret.Items, Optional: s.Secret.Optional}}}
	case s.DownwardAPI != nil:
		setMode(s.DownwardAPI.DefaultMode)
		sources = []v1.VolumeProjection{{DownwardAPI: &v1.DownwardAPIProjection{Items: s.DownwardAPI.Items}}}
	case s.Projected != nil:
		setMode(s.Projected.DefaultMode)
		sources = s.Projected.Sources
	default:
		return fmt.Errorf("this kind of volume is not supported by the test kubelet")
	}
	files := map[string]file{}
	for _, source := range sources {
		if err := v.collect(ctx, obj, volume.Name, source, mode, files); err != nil {
			return err
		}
	}
	return swapIn(path, files, fsGroup(obj))
}

func (v *volumes) collect(ctx context.Context, obj *v1.Pod, name string, s v1.VolumeProjection, mode os.FileMode, files map[string]file) error {
	switch {
	case s.ConfigMap != nil:
		m, err := v.pod.node.configMap(ctx, obj.Namespace, s.ConfigMap.Name)
		if err != nil {
			return ignoreMissing(err, s.ConfigMap.Optional)
		}
		data := map[string][]byte{}
		for key, text := range m.Data {
			data[key] = []byte(text)
		}
		for key, bytes := range m.BinaryData {
			data[key] = bytes
		}
		return pick(data, s.ConfigMap.Items, s.ConfigMap.Optional, mode, files)
	case s.Secret != nil:
		m, err := v.pod.node.secret(ctx, obj.Namespace, s.Secret.Name)
		if err != nil {
			return ignoreMissing(err, s.Secret.Optional)
		}
		return pick(m.Data, s.Secret.Items, s.Secret.Optional, mode, files)
	case s.DownwardAPI != nil:
		for _, item := range s.DownwardAPI.Items {
			text, err := downward(obj, nil, item.FieldRef, item.ResourceFieldRef)
			if err != nil {
				return err
			}
			files[item.Path] = file{[]byte(text), modeOf(item.Mode, mode)}
		}
		return nil
	case s.ServiceAccountToken != nil:
		text, err := v.token(ctx, obj, name, s.ServiceAccountToken)
		files[s.ServiceAccountToken.Path] = file{[]byte(text), mode}
		return err
	}
	return fmt.Errorf("this kind of projection is not supported by the test kubelet")
}

func ignoreMissing(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return nil
	}
	return err
}

func modeOf(own *int32, otherwise os.FileMode) os.FileMode {
	if own != nil {
		return os.FileMode(*own)
	}
	return otherwise
}

func pick(data map[string][]byte, items []v1.KeyToPath, optional *bool, mode os.FileMode, files map[string]file) error {
	if len(items) == 0 {
		for key, bytes := range data {
			files[key] = file{bytes, mode}
		}
	}
	for _, item := range items {
		bytes, ok := data[item.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("references non-existent config key: %s", item.Key)
		}
		files[item.Path] = file{bytes, modeOf(item.Mode, mode)}
	}
	return nil
}

// token asks for a new one when four fifths of the old one's time are over, as the kubelet does.
func (v *volumes) token(ctx context.Context, obj *v1.Pod, volume string, p *v1.ServiceAccountTokenProjection) (string, error) {
	key := volume + "/" + p.Path
	if t, ok := v.tokens[key]; ok && time.Now().Before(t.renewal) {
		return t.text, nil
	}
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: p.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: obj.Name, UID: obj.UID},
	}}
	if p.Audience != "" {
		request.Spec.Audiences = []string{p.Audience}
	}
	account := obj.Spec.ServiceAccountName
	answer, err := v.pod.node.client.CoreV1().ServiceAccounts(obj.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	life := time.Until(answer.Status.ExpirationTimestamp.Time)
	v.tokens[key] = token{answer.Status.Token, time.Now().Add(life * 4 / 5)}
	return answer.Status.Token, nil
}

// swapIn replaces the files of a projected volume at once: they are links through ..data, which a rename moves.
func swapIn(path string, files map[string]file, group int) error {
	current := filepath.Join(path, "..data")
	if same(current, files) {
		return nil
	}
	old, _ := os.Readlink(current)
	stamped := "..data-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	for name, f := range files {
		full := filepath.Join(path, stamped, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		mode := f.mode
		if group >= 0 {
			mode |= 0o440
		}
		if err := os.WriteFile(full, f.data, mode); err != nil {
			return err
		}
		if err := os.Chmod(full, mode); err != nil {
			return err
		}
		if group >= 0 {
			if err := os.Chown(full, -1, group); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(path, stamped), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(stamped, current+"-new"); err != nil {
		return err
	}
	if err := os.Rename(current+"-new", current); err != nil {
		return err
	}
	return tidy(path, files, old)
}

// tidy links what is new at the top of the volume and removes what is gone.
func tidy(path string, files map[string]file, old string) error {
	top := map[string]bool{}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		top[first] = true
		target := filepath.Join(path, first)
		if err := os.Symlink("..data/"+first, target); err != nil && !os.IsExist(err) {
			return err
		}
	}
	entries, err := os.ReadDir(path)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !top[e.Name()] {
			_ = os.Remove(filepath.Join(path, e.Name()))
		}
	}
	if old != "" {
		_ = os.RemoveAll(filepath.Join(path, old))
	}
	return err
}

// same tells whether dir holds exactly these files.
func same(dir string, files map[string]file) bool {
	count := 0
	err := filepath.WalkDir(dir+"/", func(full string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, full)
		data, err := os.ReadFile(full)
		if f, ok := files[name]; err != nil || !ok || !bytes.Equal(f.data, data) {
			return os.ErrInvalid
		}
		count++
		return nil
	})
	return err == nil && count == len(files)
}

// downward is the value of a field of the pod or of a container's resources.
func downward(obj *v1.Pod, c *v1.Container, field *v1.ObjectFieldSelector, res *v1.ResourceFieldSelector) (string, error) {
	if res != nil {
		name := res.ContainerName
		if name == "" && c != nil {
			name = c.Name
		}
		return resource.ExtractResourceValueByContainerNameAndNodeAllocatable(res, obj, name, nodeCapacity())
	}
	switch field.FieldPath {
	case "spec.nodeName":
		return obj.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return obj.Spec.ServiceAccountName, nil
	case "status.podIP", "status.podIPs":
		return obj.Status.PodIP, nil
	case "status.hostIP", "status.hostIPs":
		return obj.Status.HostIP, nil
	}
	return fieldpath.ExtractFieldPathAsString(obj, field.FieldPath)
}
