package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of times in /proc: USER_HZ, which Linux keeps at 100 for programs whatever the kernel's own is.
const clockTick = 10 * time.Millisecond

// stat is what /proc says of a process.
type stat struct {
	parent int
	// own is the CPU time of the process, children that of those it has waited for.
	own, children time.Duration
}

func statOf(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, fmt.Errorf("read CPU time (this needs Linux): %w", err)
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("read CPU time of %d: unknown form", pid)
	}
	// From the third field of proc(5) on: state, ppid, …, utime (14), stime, cutime, cstime.
	var s stat
	var ticks [4]int64
	s.parent, err = strconv.Atoi(fields[1])
	for i := range ticks {
		n, fault := strconv.ParseInt(fields[11+i], 10, 64)
		ticks[i], err = n, errors.Join(err, fault)
	}
	if err != nil {
		return stat{}, fmt.Errorf("read CPU time of %d: %w", pid, err)
	}
	s.own, s.children = time.Duration(ticks[0]+ticks[1])*clockTick, time.Duration(ticks[2]+ticks[3])*clockTick
	return s, nil
}

// ownCPU is the CPU time of a process without its children.
func ownCPU(pid int) (time.Duration, error) {
	s, err := statOf(pid)
	return s.own, err
}

// treeCPU is the CPU time of a process and all below it: of those that live, and of those that were waited for.
func treeCPU(pid int) (time.Duration, error) {
	all, err := family(pid)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, s := range all {
		sum += s.own + s.children
	}
	return sum, nil
}

// family is a process and all that live below it.
func family(pid int) (map[int]stat, error) {
	first, err := statOf(pid)
	if err != nil {
		return nil, err
	}
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	others := map[int]stat{}
	for _, name := range names {
		other, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if s, err := statOf(other); err == nil { // else it has ended
			others[other] = s
		}
	}
	found := map[int]stat{pid: first}
	for grown := true; grown; {
		grown = false
		for other, s := range others {
			if _, known := found[other]; known {
				continue
			}
			if _, below := found[s.parent]; below {
				found[other], grown = s, true
			}
		}
	}
	return found, nil
}

// treeMemory is the memory of a process and all below it in bytes, what they share counted once (the proportional set size).
func treeMemory(pid int) (uint64, error) {
	all, err := family(pid)
	if err != nil {
		return 0, err
	}
	var sum uint64
	for member := range all {
		// One that has ended meanwhile has none.
		sum += kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", member), "Pss:") << 10
	}
	return sum, nil
}

// kilobytes reads a figure of a file of /proc; 0 when there is none.
func kilobytes(path, name string) uint64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
			n, err := strconv.ParseUint(fields[1], 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// cpu is the CPU time, user and system, of this process so far.
func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// resident is the memory of this process in bytes: now on Linux, else its largest so far.
func resident() uint64 {
	if now := kilobytes("/proc/self/status", "VmRSS:"); now > 0 {
		return now << 10
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return uint64(usage.Maxrss) << 10
}
