package system_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	testprograms "github.com/picketd/picket/test/programs"
)

// A program that is to believe a wrong time is built from the same sources as any other, on a standard library whose
// time.Now adds what a file says, which the program maps and the test writes: an overlay of two files of package time that
// exists for this build alone. So all of a program is deceived at once, what it depends on too, at an instant, without a
// switch in what people run. Timers go on as they are: a clock that is set moves none.

// falseTime is the file that the overlay adds to package time.
const falseTime = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// falseLie is one of two that are written in turn: what the wall clock is ahead, and a drift of both clocks.
type falseLie struct{ ahead, since, gained, perMillion int64 }

type falseFile struct {
	turn atomic.Int64
	lies [2]falseLie
}

var falseClock = func() *falseFile {
	path, found := syscall.Getenv("PICKET_TEST_CLOCK")
	if !found {
		return nil
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("open " + path + ": " + err.Error())
	}
	data, err := syscall.Mmap(fd, 0, int(unsafe.Sizeof(falseFile{})), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map " + path + ": " + err.Error())
	}
	return (*falseFile)(unsafe.Pointer(&data[0]))
}()

func falseNow(sec int64, nsec int32, mono int64) (int64, int32, int64) {
	if falseClock == nil {
		return sec, nsec, mono
	}
	lie := &falseClock.lies[falseClock.turn.Load()]
	drift := lie.gained + (mono-lie.since)/1000*lie.perMillion/1000
	wall := sec*1e9 + int64(nsec) + lie.ahead + drift
	return wall / 1e9, int32(wall % 1e9), mono + drift
}

func falseNano() int64 {
	_, _, mono := falseNow(0, 0, runtimeNano())
	return mono
}
`

// falsePrograms builds them when the first test wants one, and once, and returns where they are.
var falsePrograms = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(builds.Dir, "false-sources")
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	for old, lie := range map[string]string{
		"	sec, nsec, mono := runtimeNow()\n":      "	sec, nsec, mono := falseNow(runtimeNow())\n",
		"subMono(runtimeNano()-startNano, t.ext)": "subMono(falseNano()-startNano, t.ext)",
		"subMono(t.ext, runtimeNano()-startNano)": "subMono(t.ext, falseNano()-startNano)",
	} {
		if bytes.Count(text, []byte(old)) != 1 {
			return "", fmt.Errorf("%s reads another way than is known: %q", source, old)
		}
		text = bytes.Replace(text, []byte(old), []byte(lie), 1)
	}
	files := map[string]string{source: filepath.Join(dir, "time.go"), filepath.Join(filepath.Dir(source), "zfalse.go"): filepath.Join(dir, "zfalse.go")}
	overlay, err := json.Marshal(map[string]any{"Replace": files})
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for name, content := range map[string][]byte{"time.go": text, "zfalse.go": []byte(falseTime), "overlay.json": overlay} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return "", err
		}
	}
	list := []string{"github.com/picketd/picket/cmd/picket", "github.com/nats-io/nats-server/v2"}
	for _, service := range services() {
		list = append(list, fmt.Sprintf("github.com/picketd/picket/services/%s/cmd/%s", service, service))
	}
	kind := testprograms.Kind{Name: "false", Flags: []string{"-overlay", filepath.Join(dir, "overlay.json")}}
	return builds.Build(context.Background(), kind, list...)
})

// falseClock is what one program, or several, take for the time.
type falseClock struct {
	path     string
	programs string // those that believe it

	mu   sync.Mutex
	data []byte
	lie  lie
}

// lie is laid out like the falseLie of the overlay.
type lie struct{ ahead, since, gained, perMillion int64 }

func newFalseClock(t *testing.T) *falseClock {
	t.Helper()
	dir, err := falsePrograms()
	if err != nil {
		t.Fatal(err)
	}
	c := &falseClock{path: filepath.Join(t.TempDir(), "clock"), programs: dir}
	size := 8 + 2*binary.Size(lie{})
	if err := os.WriteFile(c.path, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(c.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if c.data, err = syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	c.set(0)
	// It is mapped for as long as the test lives: a program may still look, and it is a page.
	return c
}

// deceive has a program go by the clock from its next start on.
func (c *falseClock) deceive(p *process) {
	p.program = filepath.Join(c.programs, filepath.Base(p.program))
	p.env = append(p.env, "PICKET_TEST_CLOCK="+c.path)
}

// lead is what right clocks of deceived programs are ahead of the test's and of PostgreSQL's: checks that have just been
// made exist for that long then, so that there is something to look at when a clock goes back.
const lead = 2 * time.Hour

// set puts the wall clock ahead of the right time by that much, at once; the monotonic clock goes on.
func (c *falseClock) set(ahead time.Duration) { c.tell(func(l *lie) { l.ahead = int64(lead + ahead) }) }

// drift has both clocks gain so many microseconds a second from now on, as a bad crystal does, or one that is being slewed.
func (c *falseClock) drift(perMillion int64) {
	c.tell(func(l *lie) {
		var now syscall.Timespec
		const monotonic = 1
		if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, monotonic, uintptr(unsafe.Pointer(&now)), 0); errno != 0 {
			panic(errno)
		}
		l.gained += (now.Nano() - l.since) / 1000 * l.perMillion / 1000
		l.since, l.perMillion = now.Nano(), perMillion
	})
}

// right takes back every lie: the wall clock is set, and the monotonic one keeps what it has gained.
func (c *falseClock) right() {
	c.drift(0)
	c.tell(func(l *lie) { l.ahead = int64(lead) - l.gained })
}

func (c *falseClock) tell(change func(*lie)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.lie)
	turn := (*atomic.Int64)(unsafe.Pointer(&c.data[0]))
	next := 1 - turn.Load()
	_, _ = binary.Encode(c.data[8+int(next)*binary.Size(lie{}):], binary.NativeEndian, &c.lie)
	turn.Store(next)
}
