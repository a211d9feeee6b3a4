package main

import (
	"cmp"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// environment: image, the API server's address, envFrom, env; later ones win, and may use $(EARLIER).
func (c *container) environment(obj *v1.Pod, img image) (map[string]string, error) {
	env := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME": cmp.Or(obj.Spec.Hostname, obj.Name)}
	for name, value := range img.Env {
		env[name] = value
	}
	for name, value := range map[string]string{"HOST": apiAddress, "PORT": "443", "PORT_HTTPS": "443"} {
		env["KUBERNETES_SERVICE_"+name] = value
	}
	for i := range c.spec.EnvFrom {
		if err := c.envFrom(obj.Namespace, &c.spec.EnvFrom[i], env); err != nil {
			return nil, err
		}
	}
	for i := range c.spec.Env {
		one := &c.spec.Env[i]
		value := expansion.Expand(one.Value, expansion.MappingFuncFor(env))
		if one.ValueFrom != nil {
			var there bool
			var err error
			if value, there, err = c.valueFrom(obj, one.ValueFrom); err != nil {
				return nil, err
			} else if !there {
				continue
			}
		}
		env[one.Name] = value
	}
	return env, nil
}

func (c *container) envFrom(namespace string, from *v1.EnvFromSource, env map[string]string) error {
	if s := from.ConfigMapRef; s != nil {
		m, err := c.pod.node.configMap(c.pod.ctx, namespace, s.Name)
		if err != nil {
			return ignoreMissing(err, s.Optional)
		}
		for key, value := range m.Data {
			env[from.Prefix+key] = value
		}
	}
	if s := from.SecretRef; s != nil {
		m, err := c.pod.node.secret(c.pod.ctx, namespace, s.Name)
		if err != nil {
			return ignoreMissing(err, s.Optional)
		}
		for key, value := range m.Data {
			env[from.Prefix+key] = string(value)
		}
	}
	return nil
}

// valueFrom is false when something optional is not there.
func (c *container) valueFrom(obj *v1.Pod, from *v1.EnvVarSource) (string, bool, error) {
	var value string
	var there bool
	var err error
	var optional *bool
	what, key := "", ""
	switch {
	case from.FieldRef != nil || from.ResourceFieldRef != nil:
		value, err = downward(obj, c.spec, from.FieldRef, from.ResourceFieldRef)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		s := from.ConfigMapKeyRef
		what, key, optional = "ConfigMap", s.Key, s.Optional
		var m *v1.ConfigMap
		if m, err = c.pod.node.configMap(c.pod.ctx, obj.Namespace, s.Name); err == nil {
			value, there = m.Data[s.Key]
		}
	case from.SecretKeyRef != nil:
		s := from.SecretKeyRef
		what, key, optional = "Secret", s.Key, s.Optional
		var m *v1.Secret
		if m, err = c.pod.node.secret(c.pod.ctx, obj.Namespace, s.Name); err == nil {
			var bytes []byte
			bytes, there = m.Data[s.Key]
			value = string(bytes)
		}
	default:
		return "", false, fmt.Errorf("this source of an environment variable is not supported by the test kubelet")
	}
	if err != nil {
		return "", false, ignoreMissing(err, optional)
	}
	if !there && (optional == nil || !*optional) {
		return "", false, fmt.Errorf("couldn't find key %s in %s %s", key, what, obj.Namespace)
	}
	return value, there, nil
}
