package embeddedtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// DatabaseVariable names the environment variable with the connection string of a server to use instead of the private
// one, for example one with TimescaleDB. Its user must be allowed to create databases; tests make and drop their own.
const DatabaseVariable = "PICKET_TEST_DATABASE_URL"

// Database is a database of one test's own.
type Database struct {
	// URL is its connection string.
	URL string
	// Name is its name on the server.
	Name string
	// Server is where the server listens, as a target for [FaultProxy].
	Server string
}

// Via is the connection string of the database through a proxy that listens on address (host:port).
func (d *Database) Via(address string) string {
	// The strings were parsed when the database was made.
	u, _ := url.Parse(d.URL)
	query := u.Query()
	query.Del("host")
	query.Del("port")
	if !query.Has("sslmode") {
		query.Set("sslmode", "disable") // a broken wire is to be seen at the first attempt, not at one without TLS
	}
	u.Host, u.RawQuery = address, query.Encode()
	return u.String()
}

// Postgres makes an empty database for this test, which is dropped at its end.
func Postgres(t testing.TB) *Database {
	t.Helper()
	return create(t, "template0")
}

// Template is a database that is prepared once per test process and copied for each test: a copy takes a fraction of
// running migrations. Use [NewTemplate]; it is safe for concurrent use.
type Template struct {
	prepare func(ctx context.Context, url string) error
	once    sync.Once
	name    string
	err     error
}

// NewTemplate returns a template that prepare fills when the first test wants a copy. Prepare must close its
// connections.
func NewTemplate(prepare func(ctx context.Context, url string) error) *Template {
	return &Template{prepare: prepare}
}

// Postgres makes a copy of the template for this test, which is dropped at its end.
func (tmpl *Template) Postgres(t testing.TB) *Database {
	t.Helper()
	tmpl.once.Do(func() { tmpl.name, tmpl.err = tmpl.make() })
	if tmpl.err != nil {
		t.Fatal(tmpl.err)
	}
	return create(t, tmpl.name)
}

// make outlives the test that happens to be first, so it has a context of its own. [Main] drops the template.
func (tmpl *Template) make() (name string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	server, err := serverURL()
	if err != nil {
		return "", err
	}
	name = newName()
	if err := execute(ctx, server, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return "", err
	}
	shared.atStop(func(ctx context.Context) error { return drop(ctx, server, name) })
	database, err := withDatabase(server, name)
	if err != nil {
		return "", err
	}
	if err := tmpl.prepare(ctx, database); err != nil {
		return "", fmt.Errorf("prepare template database: %w", err)
	}
	// A database that somebody is connected to cannot be copied, and TimescaleDB's workers connect to every one that
	// allows it.
	return name, execute(ctx, server,
		"ALTER DATABASE "+name+" WITH ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"'")
}

func create(t testing.TB, template string) *Database {
	t.Helper()
	server, err := serverURL()
	if err != nil {
		t.Fatal(err)
	}
	name := newName()
	if err := execute(t.Context(), server, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := drop(ctx, server, name); err != nil {
			t.Error(err)
		}
	})
	database, err := withDatabase(server, name)
	if err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	listen := net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	if strings.HasPrefix(config.Host, "/") {
		listen = fmt.Sprintf("unix:%s/.s.PGSQL.%d", config.Host, config.Port)
	}
	return &Database{URL: database, Name: name, Server: listen}
}

// serverURL is the connection string of the maintenance database of the server in use.
func serverURL() (string, error) {
	if server := os.Getenv(DatabaseVariable); server != "" {
		if _, err := url.Parse(server); err != nil {
			return "", fmt.Errorf("%s: %w", DatabaseVariable, err)
		}
		return server, nil
	}
	postgres, err := shared.start()
	if err != nil {
		return "", err
	}
	return postgres.URL("postgres"), nil
}

func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("connection string: %w", err)
	}
	u.Path = "/" + name
	return u.String(), nil
}

// newName is lower case letters and digits: it needs no quotes.
func newName() string { return "pkt_" + strings.ToLower(rand.Text()) }

func drop(ctx context.Context, server, name string) error {
	return execute(ctx, server, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

// connectLimit bounds one connection attempt: a server under a hundred starting tests answers late.
const connectLimit = 30 * time.Second

func execute(ctx context.Context, server string, statements ...string) error {
	config, err := pgx.ParseConfig(server)
	if err != nil {
		return fmt.Errorf("connection string: %w", err)
	}
	config.ConnectTimeout = connectLimit
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("execute %q: %w", statement, err)
		}
	}
	return nil
}
