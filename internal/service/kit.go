package service

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// Kit is what a service is handed besides its own configuration.
type Kit struct {
	// Name of the service, such as prober.
	Name string
	// Instance tells replicas apart; unique among the living.
	Instance string
	// Location is where this process stands.
	Location string
	Version  string
	// ConfigFile is the YAML file that the process was started with; empty: none.
	ConfigFile string
	Started    time.Time
	Log        *slog.Logger
	Metrics    *prometheus.Registry
	Health     *Health
	// Tracer makes spans; nil as NoTracer.
	Tracer trace.Tracer
}

// Trace returns the tracer, which is never nil.
func (k *Kit) Trace() trace.Tracer {
	if k.Tracer == nil {
		return NoTracer()
	}
	return k.Tracer
}

// version is what the linker was told (deploy/build); a build from a module or a repository needs no telling.
var version string

// Version is the version of the running binary as the linker was told it, else from its build information, or `devel`
// when it was built from a working tree.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}

// DefaultInstance is the host's name with the process id: readable, and unique
// among the living processes of a fleet whose hosts have distinct names.
func DefaultInstance() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "host"
	}
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	return fmt.Sprintf("%.40s-%d", host, os.Getpid())
}
