package embeddedtest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
)

func TestMain(m *testing.M) { embeddedtest.Main(m) }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func TestNATS(t *testing.T) {
	t.Parallel()
	one, two := embeddedtest.NATS(t), embeddedtest.NATS(t)
	if one == two {
		t.Errorf("two servers at %s", one)
	}
	conn, err := nats.Connect(one)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestPostgresGivesEachTestItsOwn(t *testing.T) {
	t.Parallel()
	one, two := embeddedtest.Postgres(t), embeddedtest.Postgres(t)
	if _, err := connect(t, one.URL).Exec(t.Context(), "CREATE TABLE here (id int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, two.URL).Exec(t.Context(), "SELECT * FROM here"); err == nil {
		t.Error("one test sees the other's table")
	}
}

func TestPostgresIsDropped(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("inner", func(t *testing.T) {
		database := embeddedtest.Postgres(t)
		name = database.Name
		conn, err := pgx.Connect(t.Context(), database.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
	})
	var found bool
	conn := connect(t, embeddedtest.Postgres(t).URL)
	if err := conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&found); err != nil {
		t.Fatal(err)
	}
	if found {
		t.Errorf("database %s outlives its test", name)
	}
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	var prepared atomic.Int32
	template := embeddedtest.NewTemplate(func(ctx context.Context, url string) error {
		prepared.Add(1)
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE copied AS SELECT 1 AS id")
		return err
	})
	for range 3 {
		conn := connect(t, template.Postgres(t).URL)
		if _, err := conn.Exec(t.Context(), "DELETE FROM copied WHERE id = 1"); err != nil {
			t.Error(err)
		}
	}
	if n := prepared.Load(); n != 1 {
		t.Errorf("prepared %d times", n)
	}
}

// The proxy in front of PostgreSQL's unix socket, through all that it can do.
func TestFaultProxy(t *testing.T) {
	t.Parallel()
	database := embeddedtest.Postgres(t)
	proxy := embeddedtest.FaultProxy(t, database.Server)
	conn := connect(t, database.Via(proxy.Addr()))
	ping := func(conn *pgx.Conn) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return conn.Ping(ctx)
	}
	if err := ping(conn); err != nil {
		t.Fatal(err)
	}

	proxy.Freeze()
	answered := make(chan error, 1)
	go func() { answered <- ping(conn) }()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if late, err := pgx.Connect(ctx, database.Via(proxy.Addr())); err == nil {
		late.Close(t.Context())
		t.Error("a frozen server answered")
	}
	raw, err := net.Dial("tcp", proxy.Addr())
	if err != nil {
		t.Fatalf("a frozen server does not accept: %v", err)
	}
	raw.Close()
	select {
	case err := <-answered:
		t.Errorf("a frozen server answered: %v", err)
	default:
	}
	proxy.Thaw()
	if err := <-answered; err != nil {
		t.Errorf("after the thaw: %v", err)
	}

	proxy.Cut()
	if err := ping(conn); err == nil {
		t.Error("a cut connection works")
	}
	if err := ping(connect(t, database.Via(proxy.Addr()))); err != nil {
		t.Errorf("new connection after a cut: %v", err)
	}
}

// A COMMIT that is carried out, and whose answer never comes.
func TestFaultProxyInspect(t *testing.T) {
	t.Parallel()
	database := embeddedtest.Postgres(t)
	proxy := embeddedtest.FaultProxy(t, database.Server)
	if _, err := connect(t, database.URL).Exec(t.Context(), "CREATE TABLE kept (id int)"); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, database.Via(proxy.Addr()))
	insert := func(id int) error {
		return pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "INSERT INTO kept VALUES ($1)", id)
			return err
		})
	}
	proxy.Inspect(func(from embeddedtest.Side, data []byte) int {
		if from == embeddedtest.Server && bytes.Contains(data, []byte("COMMIT\x00")) {
			return 0
		}
		return len(data)
	})
	if err := insert(1); err == nil {
		t.Error("an answer came")
	}
	proxy.Inspect(nil)
	conn = connect(t, database.Via(proxy.Addr()))
	if err := insert(2); err != nil {
		t.Error(err)
	}
	var kept int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&kept); err != nil || kept != 2 {
		t.Errorf("%d rows, %v; want both", kept, err)
	}
}

func TestFaultProxyWithoutTarget(t *testing.T) {
	t.Parallel()
	proxy := embeddedtest.FaultProxy(t, "unix:"+filepath.Join(t.TempDir(), "nobody"))
	conn, err := net.Dial("tcp", proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("got %v, want the end", err)
	}
}
