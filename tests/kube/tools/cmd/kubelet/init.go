package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// initSpec is what the program, started again as the first process of a container, is told before it becomes the
// container's command.
type initSpec struct {
	Work         string // an empty directory of the host, to mount on where nobody else sees it
	Hostname     string
	Files        map[string]string // written into the root before it is sealed
	Image        image
	Mounts       []mountSpec
	Cgroups      []mountSpec // what /sys/fs/cgroup shows
	ReadOnlyRoot bool
	Argv, Env    []string
	Dir          string
	UID, GID     int
	Groups       []int
	NoNewPrivs   bool
	Capabilities []uintptr // the bounding set
}

type mountSpec struct {
	Source, Target string
	ReadOnly       bool
}

// Descriptors of the first process: what to do, where to complain, which network to join.
const (
	specFD, errorFD, networkFD = 3, 4, 5
)

// containerInit never returns. Nothing written to errorFD and its end by exec means that the command runs.
func containerInit() {
	runtime.LockOSThread()
	complain := os.NewFile(errorFD, "error")
	unix.CloseOnExec(errorFD)
	var spec initSpec
	err := json.NewDecoder(os.NewFile(specFD, "spec")).Decode(&spec)
	if err == nil {
		err = spec.enter()
	}
	if err == nil {
		err = spec.become()
	}
	fmt.Fprint(complain, err)
	os.Exit(128)
}

func (s *initSpec) enter() error {
	if err := unix.Setns(networkFD, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("joining the network: %w", err)
	}
	unix.CloseOnExec(specFD)
	unix.CloseOnExec(networkFD)
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	for _, step := range []func() error{s.makeRoot, s.mountKernel, s.fillRoot, s.mountVolumes, s.seal} {
		if err := step(); err != nil {
			return err
		}
	}
	return unix.Sethostname([]byte(s.Hostname))
}

// makeRoot lays a tmpfs over the host's root and pivots there; the host stays at /.host for what is bound from it.
func (s *initSpec) makeRoot() error {
	upper, work, root := s.Work+"/upper", s.Work+"/overlay", s.Work+"/root"
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("root", s.Work, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	// What the host keeps in these is no part of an image: an opaque directory hides what lies below.
	for path, mode := range map[string]os.FileMode{"": 0o755, "tmp": 0o777 | os.ModeSticky, "run": 0o755, ".host": 0o700} {
		if err := makeDir(filepath.Join(upper, path), mode); err != nil {
			return err
		}
		if path != "" {
			_ = unix.Setxattr(filepath.Join(upper, path), "trusted.overlay.opaque", []byte("y"), 0)
		}
	}
	for _, path := range []string{work, root} {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=/,upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	if err := unix.PivotRoot(root, root+"/.host"); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return os.Chdir("/")
}

func (s *initSpec) mountKernel() error {
	for _, m := range []struct {
		kind, target, options string
		flags                 uintptr
	}{
		{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY},
		{"tmpfs", "/sys/fs/cgroup", "mode=755", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", "/dev", "mode=755", unix.MS_NOSUID},
		{"devpts", "/dev/pts", "newinstance,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "size=64m", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.target, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("%s on %s: %w", m.kind, m.target, err)
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := bind(mountSpec{Source: "/dev/" + name, Target: "/dev/" + name}); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			return err
		}
	}
	for _, m := range s.Cgroups {
		if err := bind(m); err != nil {
			return err
		}
	}
	return nil
}

func (s *initSpec) fillRoot() error {
	for path, mode := range s.Image.Dirs {
		bits, err := strconv.ParseUint(mode, 8, 32)
		if err == nil {
			err = makeDir(path, os.FileMode(bits&0o777))
		}
		if err == nil {
			err = unix.Chmod(path, uint32(bits))
		}
		if err != nil {
			return err
		}
	}
	for path, text := range s.Files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for target, source := range s.Image.Binds {
		if err := bind(mountSpec{Source: source, Target: target, ReadOnly: true}); err != nil {
			return err
		}
	}
	return s.writePasswd()
}

// writePasswd puts the image's users in place of the host's of the same name or uid.
func (s *initSpec) writePasswd() error {
	text, err := os.ReadFile("/etc/passwd")
	if err != nil || len(s.Image.Passwd) == 0 {
		return err
	}
	lines := append([]string{}, s.Image.Passwd...)
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		taken := false
		for _, own := range s.Image.Passwd {
			a, b := strings.Split(line, ":"), strings.Split(own, ":")
			taken = taken || a[0] == b[0] || len(a) > 2 && len(b) > 2 && a[2] == b[2]
		}
		if !taken {
			lines = append(lines, line)
		}
	}
	return os.WriteFile("/etc/passwd", []byte(strings.Join(lines, "\n")+"\n"), 0o644)
}

func (s *initSpec) mountVolumes() error {
	mounts := append([]mountSpec{}, s.Mounts...)
	sort.SliceStable(mounts, func(i, j int) bool { return len(mounts[i].Target) < len(mounts[j].Target) })
	for _, m := range mounts {
		if err := bind(m); err != nil {
			return fmt.Errorf("volume on %s: %w", m.Target, err)
		}
	}
	return nil
}

// seal takes the host's root away.
func (s *initSpec) seal() error {
	if err := unix.Unmount("/.host", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := os.Remove("/.host"); err != nil {
		return err
	}
	if s.Dir != "/" {
		if err := os.MkdirAll(s.Dir, 0o755); err != nil {
			return err
		}
	}
	if s.ReadOnlyRoot {
		return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

// bind mounts a file or directory of the host inside the new root. Symlinks of the target resolve in the new root.
func bind(m mountSpec) error {
	source := "/.host" + m.Source
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(m.Target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(m.Target), 0o755); err == nil {
		var file *os.File
		if file, err = os.OpenFile(m.Target, os.O_CREATE, 0o644); err == nil {
			err = file.Close()
		}
	}
	if err == nil {
		err = unix.Mount(source, m.Target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err == nil && m.ReadOnly {
		err = unix.Mount("", m.Target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return err
}

func makeDir(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// become gives up what the container may not have and turns into its command.
func (s *initSpec) become() error {
	if err := os.Chdir(s.Dir); err != nil {
		return err
	}
	keep := map[uintptr]bool{}
	for _, c := range s.Capabilities {
		keep[c] = true
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if !keep[c] {
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
	}
	os.Clearenv()
	for _, pair := range s.Env {
		if name, value, ok := strings.Cut(pair, "="); ok {
			os.Setenv(name, value)
		}
	}
	if err := syscall.Setgroups(s.Groups); err != nil {
		return err
	}
	if err := syscall.Setgid(s.GID); err != nil {
		return err
	}
	if err := syscall.Setuid(s.UID); err != nil {
		return err
	}
	program, err := exec.LookPath(s.Argv[0])
	if err != nil {
		return err
	}
	if s.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", program, unix.Exec(program, s.Argv, s.Env))
}
