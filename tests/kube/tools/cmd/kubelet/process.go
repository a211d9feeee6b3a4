package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one run of a container's command.
type process struct {
	pid     int
	started time.Time
	done    chan struct{} // closed when it has ended
	code    int32         // from here on valid after done
	signal  int32
	oom     bool
	ended   time.Time
	group   *cgroup
}

// startProcess returns when the command runs or could not be started.
func (r *rig) startProcess(l *link, spec *initSpec, group *cgroup, logPath string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	specRead, specWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer specRead.Close()
	defer specWrite.Close()
	errorRead, errorWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer errorRead.Close()
	cmd := exec.Command(self, "init")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{specRead, errorWrite, l.ns}
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	err = r.onSpawner(cmd.Start)
	errorWrite.Close()
	if err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, started: time.Now(), done: make(chan struct{}), group: group}
	go p.reap(cmd)
	// The first process waits for its spec, so it is in its cgroup before it does or forks anything.
	group.add(p.pid)
	if err := json.NewEncoder(specWrite).Encode(spec); err != nil {
		p.kill()
		return nil, err
	}
	specWrite.Close()
	complaint, _ := io.ReadAll(errorRead)
	if len(complaint) > 0 {
		<-p.done
		return nil, errors.New(string(complaint))
	}
	return p, nil
}

func (p *process) reap(cmd *exec.Cmd) {
	_ = cmd.Wait()
	p.ended = time.Now()
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	p.code = int32(status.ExitStatus())
	if status.Signaled() {
		p.signal = int32(status.Signal())
		p.code = 128 + p.signal
	}
	p.oom = p.group.oomKilled()
	p.group.remove()
	close(p.done)
}

// kill ends the first process, and with it all of its pid namespace.
func (p *process) kill() { _ = syscall.Kill(p.pid, syscall.SIGKILL) }

// stop asks, waits for grace (which hurry cuts short) and kills.
func (p *process) stop(grace time.Duration, hurry <-chan struct{}) {
	_ = syscall.Kill(p.pid, syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	case <-hurry:
	}
	p.kill()
	<-p.done
}

type execResult struct {
	Code           int
	Stdout, Stderr string
}

// enter runs argv in the namespaces of the process, outside its cgroup: a start into a frozen one would never return.
func (r *rig) enter(ctx context.Context, p *process, spec *initSpec, argv []string, stdin string) (execResult, error) {
	base := []string{"nsenter", "-t", strconv.Itoa(p.pid), "-m", "-u", "-i", "-n", "-p", "--wd=" + spec.Dir,
		"-S", strconv.Itoa(spec.UID), "-G", strconv.Itoa(spec.GID), "--"}
	cmd := exec.Command(base[0], append(base[1:], argv...)...)
	cmd.Env = spec.Env
	cmd.Path, _ = exec.LookPath("nsenter")
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second // a child that kept the output does not hold the probe
	if err := r.onSpawner(cmd.Start); err != nil {
		return execResult{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := cmd.Wait()
	if ctx.Err() != nil {
		return execResult{}, ctx.Err()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return execResult{}, err
	}
	return execResult{cmd.ProcessState.ExitCode(), out.String(), complaints.String()}, nil
}

// A cgroup is a directory in each hierarchy the machine offers: the unified one freezes, and limits where it has the
// controllers; on a machine with the old hierarchies those limit. A machine without any only loses limits and freezing.
type cgroup struct {
	unified, memory, cpu string // empty where there is none
}

var cgroupRoots = findCgroupRoots()

// findCgroupRoots: unified at its root, where controllers can be handed down; the old ones below our own place.
func findCgroupRoots() cgroup {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+cpu +memory"), 0o644)
		return cgroup{unified: "/sys/fs/cgroup"}
	}
	var roots cgroup
	text, _ := os.ReadFile("/proc/self/cgroup")
	for _, line := range strings.Split(string(text), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, name := range strings.Split(parts[1], ",") {
			path := filepath.Join("/sys/fs/cgroup", name, parts[2])
			if _, err := os.Stat(path); err != nil {
				continue
			}
			switch name {
			case "":
				roots.unified = "/sys/fs/cgroup/unified"
			case "memory":
				roots.memory = path
			case "cpu":
				roots.cpu = path
			}
		}
	}
	return roots
}

func (g cgroup) each(f func(string) string) cgroup {
	for _, dir := range []*string{&g.unified, &g.memory, &g.cpu} {
		if *dir != "" {
			*dir = f(*dir)
		}
	}
	return g
}

// newCgroup makes a fresh one for each start: after a kill, an old one kills whatever is cloned into it.
func (r *rig) newCgroup(name string, cpuMilli, memory int64) *cgroup {
	g := cgroupRoots.each(func(root string) string {
		outer := filepath.Join(root, "shardherd-"+r.Name)
		dir := filepath.Join(outer, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			log.Printf("no cgroup: %v", err)
			return ""
		}
		if root == "/sys/fs/cgroup" {
			_ = os.WriteFile(filepath.Join(outer, "cgroup.subtree_control"), []byte("+cpu +memory"), 0o644)
		}
		return dir
	})
	set := func(dir, file, value string) {
		if dir == "" {
			return
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil {
			log.Printf("cgroup limit: %v", err)
		}
	}
	old := g.memory != "" || g.cpu != ""
	if memory > 0 && old {
		set(g.memory, "memory.limit_in_bytes", strconv.FormatInt(memory, 10))
	} else if memory > 0 {
		set(g.unified, "memory.max", strconv.FormatInt(memory, 10))
	}
	if cpuMilli > 0 && old {
		set(g.cpu, "cpu.cfs_quota_us", strconv.FormatInt(cpuMilli*100, 10))
	} else if cpuMilli > 0 {
		set(g.unified, "cpu.max", fmt.Sprintf("%d 100000", cpuMilli*100))
	}
	return &g
}

func (g *cgroup) add(pid int) {
	g.each(func(dir string) string {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			log.Printf("cgroup: %v", err)
		}
		return dir
	})
}

// mounts is what the container sees of itself in /sys/fs/cgroup, as a runtime on such a machine shows it.
func (g *cgroup) mounts() []mountSpec {
	if g.unified != "" && g.memory == "" && g.cpu == "" {
		return []mountSpec{{g.unified, "/sys/fs/cgroup", true}}
	}
	var mounts []mountSpec
	for target, dir := range map[string]string{"unified": g.unified, "memory": g.memory, "cpu": g.cpu} {
		if dir != "" {
			mounts = append(mounts, mountSpec{dir, "/sys/fs/cgroup/" + target, true})
		}
	}
	return mounts
}

func (g *cgroup) freeze(on bool) error {
	if g.unified == "" {
		return errors.New("this machine has no cgroup2: nothing can be frozen")
	}
	value := map[bool]string{true: "1", false: "0"}[on]
	return os.WriteFile(filepath.Join(g.unified, "cgroup.freeze"), []byte(value), 0o644)
}

func (g *cgroup) oomKilled() bool {
	path := filepath.Join(g.unified, "memory.events")
	if g.memory != "" {
		path = filepath.Join(g.memory, "memory.oom_control")
	}
	text, _ := os.ReadFile(path)
	for _, line := range strings.Split(string(text), "\n") {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return count != "0"
		}
	}
	return false
}

func (g *cgroup) remove() {
	g.each(func(dir string) string {
		_ = os.Remove(dir)
		return dir
	})
}

// removeCgroups takes away what is left of a rig.
func removeCgroups(name string) {
	cgroupRoots.each(func(root string) string {
		outer := filepath.Join(root, "shardherd-"+name)
		for range 100 { // a killed process leaves its cgroup a moment later
			entries, _ := os.ReadDir(outer)
			for _, e := range entries {
				_ = os.Remove(filepath.Join(outer, e.Name()))
			}
			if err := os.Remove(outer); err == nil || os.IsNotExist(err) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		return root
	})
}
