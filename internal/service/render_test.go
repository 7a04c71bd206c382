package service

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What people knew from the source system they read on a terminal; machines read the fields.
func TestLinesForPeople(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		log  func(*slog.Logger)
		text string
		json string
	}{
		"complete": {
			func(log *slog.Logger) {
				log.Info("health checks complete", "servers", 50, "duration_seconds", 2.3449, "healthy", 45, "degraded", 3, "critical", 1, "unreachable", 1)
			},
			"INF ✅ Health checks complete: 50 servers checked in 2.34s (✓45 🔶3 ⚠️1 ❌1)\n",
			`"msg":"health checks complete","servers":50,"duration_seconds":2.3449,"healthy":45,"degraded":3,"critical":1,"unreachable":1}`,
		},
		"names stay behind the sentence": {
			func(log *slog.Logger) {
				log.Warn("fleet health alert", "critical", 1, "unreachable", 1, "names", []string{"a", "b"})
			},
			"WRN ⚠️ Fleet health alert: 1 critical, 1 unreachable servers names=\"[a b]\"\n",
			`"msg":"fleet health alert","critical":1,"unreachable":1,"names":["a","b"]}`,
		},
		"names in the sentence": {
			func(log *slog.Logger) {
				log.Warn("failed to collect metrics", "servers", []string{"server-a", "server-b"})
			},
			"WRN ⚠️ Failed to collect metrics from: server-a, server-b\n",
			`"servers":["server-a","server-b"]}`,
		},
		"a field is missing": {
			func(log *slog.Logger) { log.Error("partition missing") },
			"ERR partition missing\n",
			`"msg":"partition missing"}`,
		},
		"braces in a value": {
			func(log *slog.Logger) { log.Error("partition missing", "partition", "{servers}") },
			"ERR ⚠️ PARTITION MISSING: {servers} does not exist!\n",
			`"partition":"{servers}"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for format, want := range map[LogFormat]string{LogText: test.text, LogJSON: test.json} {
				if got := logged(t, format, test.log); !strings.Contains(got, want) {
					t.Errorf("%s: %q, want in it %q", format, got, want)
				}
			}
		})
	}
}

func logged(t *testing.T, format LogFormat, log func(*slog.Logger)) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	log(NewLogger(out, slog.LevelInfo, format))
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
