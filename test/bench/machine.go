package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/picketd/picket/internal/embedded"
)

// machine is where a run happens.
type machine struct {
	Cores    int    `json:"cores"`
	CPU      string `json:"cpu,omitempty"`
	Go       string `json:"go"`
	System   string `json:"system"`
	Postgres string `json:"postgresql"`
	// Load is the load average of the last minute, Busy the cores in use by others in the second before the run;
	// -1 where the system does not say.
	Load float64 `json:"load_average"`
	Busy float64 `json:"busy_cores"`
}

// look asks the machine.
func look(ctx context.Context) (machine, error) {
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Load: -1, Busy: -1}
	dir, err := embedded.FindPostgres(ctx)
	if err != nil {
		return m, err
	}
	version, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return m, fmt.Errorf("ask the version of PostgreSQL: %w", err)
	}
	// As in "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)".
	if words := strings.Fields(string(version)); len(words) > 2 {
		m.Postgres = words[2]
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		if first, _, ok := strings.Cut(string(data), " "); ok {
			if load, err := strconv.ParseFloat(first, 64); err == nil {
				m.Load = load
			}
		}
	}
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if before, ok := busy(); ok {
		began := time.Now()
		if err := wait(ctx, time.Second); err != nil {
			return m, err
		}
		if after, ok := busy(); ok {
			m.Busy = float64(after-before) / float64(time.Since(began))
		}
	}
	return m, nil
}

// busy is the CPU time that all processors have spent on anything since the machine's start; false where it cannot be had.
func busy() (time.Duration, bool) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	const idle, iowait, guest = 4, 5, 9 // guest time is in user's already
	var ticks int64
	for i, field := range fields {
		if i == 0 || i == idle || i == iowait || i >= guest {
			continue
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, false
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, true
}

// String says it in a line.
func (m machine) String() string {
	text := fmt.Sprintf("%d cores", m.Cores)
	if m.CPU != "" {
		text += " (" + m.CPU + ")"
	}
	text += fmt.Sprintf(", %s, %s, PostgreSQL %s", m.System, m.Go, m.Postgres)
	if m.Load >= 0 {
		text += fmt.Sprintf(", load average %.2f", m.Load)
	}
	return text
}

// warning is what to know before a number is believed; empty when the machine was idle.
func (m machine) warning() string {
	if m.Busy < 0.1*float64(m.Cores) {
		return ""
	}
	return fmt.Sprintf("BUSY MACHINE: others used %.1f of %d cores when this run began. Times are worthless, CPU and ratios noisy.", m.Busy, m.Cores)
}
