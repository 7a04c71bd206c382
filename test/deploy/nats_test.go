package deploy_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/picketd/picket/internal/bus"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
	"github.com/picketd/picket/test/deploy/stack"
)

// natsd is the real server, with the file of deploy/.
type natsd struct {
	address string
	log     string // path
	cmd     *exec.Cmd
}

// startNATS runs the server with deploy/nats/nats.conf, told only where it may listen and store here.
func startNATS(t *testing.T, passwords map[string]string) *natsd {
	t.Helper()
	address, monitor := stack.FreeAddress(t), stack.FreeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	_, monitorPort, _ := net.SplitHostPort(monitor)
	n := &natsd{address: address, log: filepath.Join(t.TempDir(), "nats.log")}
	out, err := os.Create(n.log)
	if err != nil {
		t.Fatal(err)
	}
	n.cmd = exec.Command(natsServer(t), "-c", filepath.Join(root, "deploy", "nats", "nats.conf"),
		"-a", "127.0.0.1", "-p", port, "-m", monitorPort, "--store_dir", t.TempDir())
	n.cmd.Stdout, n.cmd.Stderr = out, out
	n.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range passwords {
		if strings.HasPrefix(name, "PICKET_NATS_") {
			n.cmd.Env = append(n.cmd.Env, name+"="+value)
		}
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = n.cmd.Wait() // it says only by which signal
	}()
	t.Cleanup(func() {
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		out.Close()
		if t.Failed() {
			t.Logf("NATS said:\n%s", n.said(t))
		}
	})
	eventually(t, "NATS is healthy", func() error {
		select {
		case <-ended:
			t.Fatal("NATS has ended")
		default:
		}
		return httpOK(t, "http://"+monitor+"/healthz")
	})
	return n
}

func (n *natsd) said(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(n.log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// refusals are the lines in which the server says that it refused a user something.
func (n *natsd) refusals(t *testing.T) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(n.said(t)) {
		if strings.Contains(line, " Violation") || strings.Contains(line, "authentication error") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func httpOK(t *testing.T, address string) error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return nil
}

// wire is a client that speaks the protocol by hand: after each question a PING, so that a refusal is an answer and not
// something that may still come.
type wire struct {
	t    *testing.T
	conn net.Conn
	read *bufio.Reader
}

// dial logs in; an empty user sends none.
func dial(t *testing.T, address, user, password string) (*wire, error) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	w := &wire{t: t, conn: conn, read: bufio.NewReader(conn)}
	login := map[string]any{"verbose": false, "pedantic": false, "headers": true, "no_responders": true, "lang": "test", "version": "0"}
	if user != "" {
		login["user"], login["pass"] = user, password
	}
	text, err := json.Marshal(login)
	if err != nil {
		return nil, err
	}
	refused, err := w.ask("CONNECT " + string(text) + "\r\n")
	if err != nil {
		return nil, err
	}
	if refused != "" {
		return nil, errors.New(refused)
	}
	return w, nil
}

// ask sends a command and returns what the server has against it.
func (w *wire) ask(command string) (refused string, err error) {
	if _, err := io.WriteString(w.conn, command+"PING\r\n"); err != nil {
		return "", err
	}
	for {
		line, err := w.read.ReadString('\n')
		if err != nil {
			return refused, fmt.Errorf("%s %w", refused, err)
		}
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "PONG":
			return refused, nil
		case "-ERR":
			refused = rest
		case "MSG", "HMSG":
			fields := strings.Fields(rest)
			size, err := strconv.Atoi(fields[len(fields)-1])
			if err != nil {
				return "", err
			}
			if _, err := w.read.Discard(size + 2); err != nil {
				return "", err
			}
		}
	}
}

func (w *wire) may(command string) bool {
	w.t.Helper()
	refused, err := w.ask(command)
	if err != nil {
		w.t.Fatalf("%q: %v", command, err)
	}
	if refused != "" && !strings.Contains(refused, "Permissions Violation") {
		w.t.Fatalf("%q: %s", command, refused)
	}
	return refused == ""
}

func (w *wire) mayPublish(subject string) bool {
	w.t.Helper()
	return w.may("PUB " + subject + " 0\r\n\r\n")
}

func (w *wire) maySubscribe(subject string) bool {
	w.t.Helper()
	return w.may("SUB "+subject+" 1\r\n") && w.may("UNSUB 1\r\n")
}

// subjects are examples of everything that anybody could say, by what they are. The words on the left stand in the
// tables below; each family of internal/bus is among them, which TestEveryFamilyIsTried holds.
func subjects() map[string]string {
	const server = "checkout"
	all := map[string]string{
		"probe":              bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", server, "health"),
		"probe of database":  bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", "picket-database", "partition"),
		"probe of writer":    bus.ProbeSubject("default", picketv1.Status_STATUS_HEALTHY, "local", "picket-writer", "backlog"),
		"catalog":            bus.CatalogSubject("default", "added", server),
		"command":            bus.CommandSubject("default", "acknowledge", "1"),
		"metric":             bus.MetricSubject("default", "local", server),
		"metric of platform": bus.MetricSubject("default", "local", ""),
		"alert":              bus.AlertSubject("default", "opened", "critical", server),
		"export":             bus.ExportSubject("default", "completed", "1"),
		"clock":              bus.ClockSubject,
		"work":               bus.WorkSubject("export"),
		"work of another":    bus.WorkSubject("other"),
		"dead of events":     bus.DeadSubject("", bus.StreamEvents, "writer"),
		"dead of metrics":    bus.DeadSubject("", bus.StreamMetrics, "writer-metrics"),
		"dead of work":       bus.DeadSubject("", bus.StreamWork, "exporter"),
		"request prober":     bus.RequestSubject("prober", "local"),
		"request collector":  bus.RequestSubject("collector", "local"),
		"someone else's":     "orders.created",
		"server's own":       "$SYS.REQ.SERVER.PING",
		"kv catalog":         "$KV." + bus.BucketCatalog + "." + bus.CatalogKey("default", "local", "1"),
		"kv status":          "$KV." + bus.BucketStatus + "." + bus.StatusKey("default", server),
		"list streams":       "$JS.API.STREAM.LIST",
		"list consumers":     "$JS.API.CONSUMER.LIST." + bus.StreamEvents,
		"read a message":     "$JS.API.STREAM.MSG.GET." + bus.StreamEvents,
		"create own stream":  "$JS.API.STREAM.CREATE.MINE",
	}
	for _, service := range users() {
		all["worker "+service] = bus.WorkerSubject(service, "local", "host-1")
		all["roster "+service] = "$KV." + bus.BucketWorkers + "." + service + ".local.host-1"
		all["inbox "+service] = "_INBOX_" + service + ".abc.def"
	}
	for _, stream := range streams() {
		all["info "+stream] = "$JS.API.STREAM.INFO." + stream
		all["create "+stream] = "$JS.API.STREAM.CREATE." + stream
		all["update "+stream] = "$JS.API.STREAM.UPDATE." + stream
		all["delete "+stream] = "$JS.API.STREAM.DELETE." + stream
		all["purge "+stream] = "$JS.API.STREAM.PURGE." + stream
		all["erase from "+stream] = "$JS.API.STREAM.MSG.DELETE." + stream
		all["read any "+stream] = "$JS.API.CONSUMER.CREATE." + stream + ".nameless"
		all["read filtered "+stream] = "$JS.API.CONSUMER.CREATE." + stream + ".nameless.some.subject"
		all["next any "+stream] = "$JS.API.CONSUMER.MSG.NEXT." + stream + ".nameless"
		all["forget any "+stream] = "$JS.API.CONSUMER.DELETE." + stream + ".nameless"
		all["ack any "+stream] = "$JS.ACK." + stream + ".nameless.1.1.1.1.0"
		all["flow "+stream] = "$JS.FC." + stream + ".nameless.1"
		all["direct "+stream] = "$JS.API.DIRECT.GET." + stream
	}
	for name, stream := range map[string]string{"writer": bus.StreamEvents, "writer-metrics": bus.StreamMetrics, "exporter": bus.StreamWork} {
		all["open "+stream+"/"+name] = "$JS.API.CONSUMER.CREATE." + stream + "." + name
		all["look at "+stream+"/"+name] = "$JS.API.CONSUMER.INFO." + stream + "." + name
		all["next "+stream+"/"+name] = "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + name
		all["ack "+stream+"/"+name] = "$JS.ACK." + stream + "." + name + ".1.1.1.1.0"
		all["delete "+stream+"/"+name] = "$JS.API.CONSUMER.DELETE." + stream + "." + name
	}
	return all
}

func streams() []string {
	return []string{
		bus.StreamEvents, bus.StreamMetrics, bus.StreamAlerts, bus.StreamExports, bus.StreamWork, bus.StreamDead,
		"KV_" + bus.BucketCatalog, "KV_" + bus.BucketStatus, "KV_" + bus.BucketWorkers,
	}
}

// users are the services; each has a user of its name.
func users() []string {
	return []string{"catalog", "prober", "collector", "writer", "alerter", "exporter", "api"}
}

// reads is what reading a bucket or a stream takes.
func reads(streams ...string) []string {
	var words []string
	for _, stream := range streams {
		words = append(words, "read any "+stream, "read filtered "+stream, "forget any "+stream)
		if strings.HasPrefix(stream, "KV_") {
			words = append(words, "flow "+stream)
		} else {
			words = append(words, "next any "+stream)
		}
	}
	return words
}

// publishes is what each user may say, by the words of subjects. Everything else must be refused.
func publishes() map[string][]string {
	const (
		catalog = "KV_" + bus.BucketCatalog
		status  = "KV_" + bus.BucketStatus
		workers = "KV_" + bus.BucketWorkers
	)
	durable := func(stream, name string) []string {
		return []string{"open " + stream + "/" + name, "look at " + stream + "/" + name, "next " + stream + "/" + name, "ack " + stream + "/" + name}
	}
	may := map[string][]string{
		"catalog":   append(reads(catalog), "catalog", "kv catalog"),
		"prober":    append(reads(catalog, workers), "probe", "probe of database", "probe of writer"),
		"collector": append(reads(catalog, workers, status), "probe", "probe of database", "probe of writer", "metric", "metric of platform", "list streams", "list consumers", "look at PICKET_EVENTS/writer", "look at PICKET_METRICS/writer-metrics", "look at PICKET_WORK/exporter"),
		"writer": slices.Concat(durable(bus.StreamEvents, "writer"), durable(bus.StreamMetrics, "writer-metrics"),
			[]string{"probe of database", "probe of writer", "metric of platform", "dead of events", "dead of metrics"}),
		"alerter":  append(reads(status), "alert", "clock", "kv status", "read any PICKET_EVENTS", "next any PICKET_EVENTS", "forget any PICKET_EVENTS"),
		"exporter": append(durable(bus.StreamWork, "exporter"), "export", "work", "dead of work"),
		"api": append(reads(workers, status, bus.StreamEvents, bus.StreamMetrics, bus.StreamAlerts, bus.StreamExports),
			"command", "export", "work", "request prober", "request collector"),
	}
	for _, stream := range streams() {
		may["catalog"] = append(may["catalog"], "create "+stream, "update "+stream)
		for user := range may {
			may[user] = append(may[user], "info "+stream)
		}
		may["viewer"] = append(may["viewer"], "info "+stream, "direct "+stream)
	}
	for _, user := range users() {
		may[user] = append(may[user], "worker "+user, "roster "+user, "direct "+workers)
	}
	may["viewer"] = append(may["viewer"], "list streams", "list consumers", "read a message",
		"look at PICKET_EVENTS/writer", "look at PICKET_METRICS/writer-metrics", "look at PICKET_WORK/exporter")
	return may
}

// hears is what each user may subscribe to.
func hears() map[string][]string {
	return map[string][]string{
		"prober":    {"worker prober", "request prober"},
		"collector": {"worker collector", "request collector"},
		"api": {
			"probe", "probe of database", "probe of writer", "metric", "metric of platform", "alert", "export", "catalog",
			"worker catalog", "worker prober", "worker collector", "worker writer", "worker alerter", "worker exporter", "worker api",
		},
	}
}

// TestEachUserMayOnlyWhatItNeeds tries every user on every family of subjects, both ways.
func TestEachUserMayOnlyWhatItNeeds(t *testing.T) {
	t.Parallel()
	passwords := stack.Secrets(t, filepath.Join(t.TempDir(), ".env"))
	server := startNATS(t, passwords)
	examples := subjects()
	may, hear := publishes(), hears()
	for _, user := range append(users(), "viewer") {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			w, err := dial(t, server.address, user, passwords["PICKET_NATS_"+strings.ToUpper(user)+"_PASSWORD"])
			if err != nil {
				t.Fatal(err)
			}
			for _, words := range [][]string{may[user], hear[user]} {
				for _, word := range words {
					if examples[word] == "" {
						t.Fatalf("the table names %q, which is no example", word)
					}
				}
			}
			for _, word := range slices.Sorted(maps.Keys(examples)) {
				subject := examples[word]
				if got, want := w.mayPublish(subject), slices.Contains(may[user], word); got != want {
					t.Errorf("publish %s (%s): allowed %t, want %t", subject, word, got, want)
				}
				want := slices.Contains(hear[user], word) || word == "inbox "+user
				if user == "viewer" {
					want = strings.HasPrefix(subject, "picket.")
				}
				if got := w.maySubscribe(subject); got != want {
					t.Errorf("subscribe %s (%s): allowed %t, want %t", subject, word, got, want)
				}
			}
			for _, wildcard := range []string{">", "picket.>", "_INBOX.>", "_INBOX_api.>", "$JS.>", "$KV.>", "$SYS.>", "picket.*.command.>", "picket.worker.>"} {
				want := user == "viewer" && (strings.HasPrefix(wildcard, "picket.") || wildcard == "_INBOX.>") ||
					user == "api" && (wildcard == "_INBOX_api.>" || wildcard == "picket.worker.>")
				if got := w.maySubscribe(wildcard); got != want {
					t.Errorf("subscribe %s: allowed %t, want %t", wildcard, got, want)
				}
			}
		})
	}
}

// TestNobodyWithoutAPassword: no user, a wrong password and an unknown user are all sent away.
func TestNobodyWithoutAPassword(t *testing.T) {
	t.Parallel()
	passwords := stack.Secrets(t, filepath.Join(t.TempDir(), ".env"))
	server := startNATS(t, passwords)
	for _, login := range [][2]string{{"", ""}, {"prober", ""}, {"prober", passwords["PICKET_NATS_WRITER_PASSWORD"]}, {"root", "root"}} {
		if _, err := dial(t, server.address, login[0], login[1]); err == nil {
			t.Errorf("user %q got in", login[0])
		}
	}
	admin, err := dial(t, server.address, "admin", passwords["PICKET_NATS_ADMIN_PASSWORD"])
	if err != nil {
		t.Fatal(err)
	}
	if !admin.mayPublish("$JS.API.STREAM.DELETE.MINE") || !admin.maySubscribe("picket.>") {
		t.Error("admin may not repair")
	}
	if _, err := dial(t, server.address, "sys", passwords["PICKET_NATS_SYS_PASSWORD"]); err != nil {
		t.Errorf("the system account: %v", err)
	}
}

// TestEveryFamilyIsTried: a family of subjects that internal/bus gets must be added to the examples above.
func TestEveryFamilyIsTried(t *testing.T) {
	t.Parallel()
	tried := map[string]bool{}
	for _, subject := range subjects() {
		if parsed, err := bus.ParseSubject(subject); err == nil {
			tried[parsed.Family] = true
		}
	}
	for name, value := range stringConstants(t, filepath.Join(root, "internal", "bus"), "Family") {
		if !tried[value] {
			t.Errorf("%s (%q) is tried on no user", name, value)
		}
	}
	for name, value := range stringConstants(t, filepath.Join(root, "internal", "bus"), "Bucket") {
		if !slices.Contains(streams(), "KV_"+value) {
			t.Errorf("%s (%q) is tried on no user", name, value)
		}
	}
	for name, value := range stringConstants(t, filepath.Join(root, "internal", "bus"), "Stream") {
		if !slices.Contains(streams(), value) {
			t.Errorf("%s (%q) is tried on no user", name, value)
		}
	}
}

// TestNATSConfigurationIsValid asks the server itself.
func TestNATSConfigurationIsValid(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), natsServer(t), "-t", "-c", filepath.Join(root, "deploy", "nats", "nats.conf"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range stack.Secrets(t, filepath.Join(t.TempDir(), ".env")) {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
