package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/picketd/picket/internal/embedded/embeddedtest"
	"github.com/picketd/picket/internal/store"
)

type dashboard struct {
	UID, Title, Description string
	Templating              struct {
		List []struct {
			Name, Query string
			Datasource  struct{ UID string }
		}
	}
	Annotations struct {
		List []struct {
			Target struct{ RawSQL string }
		}
	}
	Panels []struct {
		ID                       int
		Type, Title, Description string
		GridPos                  struct{ X, Y, W, H int }
		Datasource               struct{ UID string }
		Targets                  []struct {
			Datasource   struct{ Type, UID string }
			Expr, RawSQL string
		}
		FieldConfig struct {
			Defaults struct {
				Unit       string
				Thresholds struct {
					Steps []struct {
						Color string
						Value *float64
					}
				}
			}
		}
	}
}

// dashboards are those that are provisioned, by file.
func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "deploy", "grafana", "dashboards", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]dashboard{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var board dashboard
		if err := json.Unmarshal(text, &board); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		found[filepath.Base(file)] = board
	}
	if len(found) < 6 {
		t.Fatalf("only %d dashboards", len(found))
	}
	return found
}

// TestDashboards: fixed uids, and every panel says what it shows, in which unit, and what is good.
func TestDashboards(t *testing.T) {
	t.Parallel()
	sources, err := os.ReadFile(filepath.Join(root, "deploy", "grafana", "provisioning", "datasources", "picket.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for name, board := range dashboards(t) {
		if want := "picket-"; !strings.HasPrefix(board.UID, want) || seen[board.UID] != "" {
			t.Errorf("%s: uid %q (also of %q)", name, board.UID, seen[board.UID])
		}
		seen[board.UID] = name
		if board.Title == "" || board.Description == "" {
			t.Errorf("%s has no title or no description", name)
		}
		ids, places := map[int]bool{}, map[string]string{}
		for _, panel := range board.Panels {
			where := fmt.Sprintf("%s, %q", name, panel.Title)
			if panel.Title == "" || panel.Description == "" || panel.FieldConfig.Defaults.Unit == "" || len(panel.FieldConfig.Defaults.Thresholds.Steps) == 0 {
				t.Errorf("%s: has no title, description, unit or thresholds", where)
			}
			if ids[panel.ID] || len(panel.Targets) == 0 {
				t.Errorf("%s: its id is another's, or it asks nothing", where)
			}
			ids[panel.ID] = true
			for x := range panel.GridPos.W {
				for y := range panel.GridPos.H {
					place := strconv.Itoa(panel.GridPos.X+x) + "/" + strconv.Itoa(panel.GridPos.Y+y)
					if other := places[place]; other != "" {
						t.Fatalf("%s lies on %q", where, other)
					}
					places[place] = panel.Title
				}
			}
			if panel.GridPos.X+panel.GridPos.W > 24 {
				t.Errorf("%s is wider than the page", where)
			}
			for _, target := range panel.Targets {
				if !strings.Contains(string(sources), "uid: "+target.Datasource.UID+"\n") {
					t.Errorf("%s asks %q, which is not provisioned", where, target.Datasource.UID)
				}
				if (target.Expr == "") == (target.RawSQL == "") {
					t.Errorf("%s asks both or nothing", where)
				}
			}
		}
	}
}

// TestDashboardExpressions has promtool parse every expression, as rules of a made-up file.
func TestDashboardExpressions(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("groups:\n  - name: dashboards\n    rules:\n")
	for _, board := range dashboards(t) {
		for _, panel := range board.Panels {
			for i, target := range panel.Targets {
				if target.Expr != "" {
					fmt.Fprintf(&b, "      - record: %s:panel_%d_%d\n        expr: %q\n", strings.ReplaceAll(board.UID, "-", "_"), panel.ID, i, target.Expr)
				}
			}
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

var grafanaMacros = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`\$__timeFilter\(([^)]*)\)`), "$1 BETWEEN now() - interval '6 hours' AND now()"},
	{regexp.MustCompile(`\$__timeFrom\(\)`), "(now() - interval '6 hours')"},
	{regexp.MustCompile(`\$__timeTo\(\)`), "now()"},
	{regexp.MustCompile(`\$__interval\b`), "1m"},
	{regexp.MustCompile(`\$\{(org|server):sqlstring\}`), "'default'"},
}

// TestDashboardQueries runs every query as Grafana's own role, on tables that the migrations made and with the rights
// that deploy/timescale/grants gives.
func TestDashboardQueries(t *testing.T) {
	t.Parallel()
	database := embeddedtest.Postgres(t)
	db, err := store.Open(t.Context(), store.Options{URL: database.URL, Log: slog.New(slog.DiscardHandler), MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), database.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	as(t, conn, database)
	for name, board := range dashboards(t) {
		var queries []string
		for _, variable := range board.Templating.List {
			queries = append(queries, variable.Query)
		}
		for _, annotation := range board.Annotations.List {
			queries = append(queries, annotation.Target.RawSQL)
		}
		for _, panel := range board.Panels {
			for _, target := range panel.Targets {
				if target.RawSQL != "" {
					queries = append(queries, target.RawSQL)
				}
			}
		}
		for _, query := range queries {
			statement := query
			for _, macro := range grafanaMacros {
				statement = macro.pattern.ReplaceAllString(statement, macro.with)
			}
			if strings.Contains(statement, "$") {
				t.Errorf("%s: a macro that the test does not know: %s", name, statement)
				continue
			}
			rows, err := conn.Query(t.Context(), statement)
			if err == nil {
				rows.Close()
				err = rows.Err()
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, statement)
			}
		}
	}
}

// as gives the session the rights of picket_reader, made for this database as deploy/timescale/grants makes them.
func as(t *testing.T, conn *pgx.Conn, database *embeddedtest.Database) {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(root, "deploy", "timescale", "grants"))
	if err != nil {
		t.Fatal(err)
	}
	role := "reader_" + database.Name
	_, body, ok := strings.Cut(string(script), "<<'SQL'\n")
	body, _, _ = strings.Cut(body, "\nSQL\n")
	if !ok || !strings.Contains(body, `\gexec`) {
		t.Fatal("deploy/timescale/grants is not as this test reads it")
	}
	if _, err := conn.Exec(t.Context(), "CREATE ROLE "+role); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cleaner, err := pgx.Connect(context.Background(), database.URL)
		if err != nil {
			t.Error(err)
			return
		}
		defer cleaner.Close(context.Background())
		if _, err := cleaner.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	body = strings.ReplaceAll(body, "picket_reader", role)
	// As psql would: what is before \gexec is asked, and its answers are run.
	for part := range strings.SplitAfterSeq(body, `\gexec`) {
		statement, generates := strings.CutSuffix(strings.TrimSpace(part), `\gexec`)
		if !generates {
			continue
		}
		direct, query := "", statement
		if i := strings.Index(statement, "WITH shown"); i > 0 {
			direct, query = statement[:i], statement[i:]
		}
		if direct != "" {
			if _, err := conn.Exec(t.Context(), direct); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := conn.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		grants, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if len(grants) < 10 {
			t.Fatalf("only %d grants: %v", len(grants), grants)
		}
		for _, grant := range grants {
			if _, err := conn.Exec(t.Context(), grant); err != nil {
				t.Fatalf("%s: %v", grant, err)
			}
		}
	}
	if _, err := conn.Exec(t.Context(), "SET ROLE "+role); err != nil {
		t.Fatal(err)
	}
}
