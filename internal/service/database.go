package service

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Database says where PostgreSQL is. Three families of variables can say so,
// since two systems came before this one; the first of which any is set wins whole.
type Database struct {
	URL              string `env:"DATABASE_URL" desc:"PostgreSQL as a URL; wins over PG_* and POSTGRES_*." secret:"true"`
	PGHost           string `env:"PG_HOST" desc:"Host (iot-postgres when another PG_* is set)."`
	PGPort           string `env:"PG_PORT" desc:"Port (5432)."`
	PGDB             string `env:"PG_DB" desc:"Database (iotcloud)."`
	PGUser           string `env:"PG_USER" desc:"User (iot)."`
	PGPass           string `env:"PG_PASS" desc:"Password (iot_dev)." secret:"true"`
	PostgresHost     string `env:"POSTGRES_HOST" desc:"Host (unicorn-postgresql when another POSTGRES_* is set)."`
	PostgresPort     string `env:"POSTGRES_PORT" desc:"Port (5432)."`
	PostgresDB       string `env:"POSTGRES_DB" desc:"Database (unicorn_db)."`
	PostgresUser     string `env:"POSTGRES_USER" desc:"User (unicorn)."`
	PostgresPassword string `env:"POSTGRES_PASSWORD" desc:"Password (unicorn)." secret:"true"`
	MaxConns         int32  `env:"PG_POOL_MAX" desc:"Most connections of one process."`
}

// DefaultDatabase returns the defaults.
func DefaultDatabase() Database { return Database{MaxConns: 10} }

type family struct{ host, port, name, user, password string }

func (f family) set() bool {
	return f.host+f.port+f.name+f.user+f.password != ""
}

func (f family) orElse(d family) family {
	pick := func(value, otherwise string) string {
		if value != "" {
			return value
		}
		return otherwise
	}
	return family{pick(f.host, d.host), pick(f.port, d.port), pick(f.name, d.name), pick(f.user, d.user), pick(f.password, d.password)}
}

func (f family) url() string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(f.user, f.password), Host: net.JoinHostPort(f.host, f.port), Path: "/" + f.name}
	return u.String()
}

func (d Database) pg() family {
	return family{d.PGHost, d.PGPort, d.PGDB, d.PGUser, d.PGPass}
}

func (d Database) postgres() family {
	return family{d.PostgresHost, d.PostgresPort, d.PostgresDB, d.PostgresUser, d.PostgresPassword}
}

var (
	pgDefaults       = family{"iot-postgres", "5432", "iotcloud", "iot", "iot_dev"}
	postgresDefaults = family{"unicorn-postgresql", "5432", "unicorn_db", "unicorn", "unicorn"}
)

// Redact takes the password out of an address, or of several separated by commas.
func Redact(addresses string) string {
	parts := strings.Split(addresses, ",")
	for i, part := range parts {
		if u, err := url.Parse(part); err == nil {
			parts[i] = u.Redacted()
		}
	}
	return strings.Join(parts, ",")
}

// Configured reports whether any variable says where the database is.
func (d Database) Configured() bool {
	return d.URL != "" || d.pg().set() || d.postgres().set()
}

// Resolve returns the address that counts, and a warning when families differ
// and one of them is passed over. With nothing set it is that of the PG_* defaults.
func (d Database) Resolve() (address, warning string) {
	type candidate struct{ family, address string }
	var set []candidate
	if d.URL != "" {
		set = append(set, candidate{"DATABASE_URL", d.URL})
	}
	if d.pg().set() {
		set = append(set, candidate{"PG_*", d.pg().orElse(pgDefaults).url()})
	}
	if d.postgres().set() {
		set = append(set, candidate{"POSTGRES_*", d.postgres().orElse(postgresDefaults).url()})
	}
	if len(set) == 0 {
		return pgDefaults.url(), ""
	}
	var passed []string
	for _, other := range set[1:] {
		if other.address != set[0].address {
			passed = append(passed, other.family)
		}
	}
	if len(passed) > 0 {
		warning = fmt.Sprintf("%s says where the database is; %s says otherwise and is not used", set[0].family, strings.Join(passed, " and "))
	}
	return set[0].address, warning
}
