package system_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	testprograms "github.com/picketd/picket/test/programs"
)

// patience bounds every wait; nothing waits that long when all is well.
const patience = 3 * time.Minute

// builds has the programs that tests run, and programs is the directory of those under test.
var (
	builds   *testprograms.Run
	programs string
)

func TestMain(m *testing.M) {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := embeddedtest.Run(m)
	if err := builds.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func build() error {
	var err error
	if builds, err = testprograms.NewRun(); err != nil {
		return err
	}
	list := []string{"github.com/picketd/picket/cmd/picket"}
	for _, service := range services() {
		list = append(list, fmt.Sprintf("github.com/picketd/picket/services/%s/cmd/%s", service, service))
	}
	if programs, err = builds.Build(context.Background(), testprograms.LikeTests(), list...); err != nil {
		return errors.Join(err, builds.Close())
	}
	return nil
}

// faultFor is how long scenarios that go on breaking things do so, from
// PICKET_FAULT_SECONDS; each does everything once at least.
func faultFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("PICKET_FAULT_SECONDS")
	if text == "" {
		return 0
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 0 {
		t.Fatalf("PICKET_FAULT_SECONDS=%s is no number of seconds", text)
	}
	return time.Duration(seconds) * time.Second
}

// services are the programs of the many-process deployment, in the order in which a person would start them.
func services() []string {
	return []string{"catalog", "writer", "alerter", "prober", "collector", "exporter", "api"}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+faultFor(t))
	t.Cleanup(cancel)
	return ctx
}

// eventually asks until the answer is good, and fails the test with the last bad one after patience.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		<-ticker.C
	}
}
