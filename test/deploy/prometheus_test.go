package deploy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// awaited are names that the rules and dashboards use and no code registers yet, with where they belong. Whoever
// registers one takes it off; a name that has arrived fails TestMetricNamesExist until then.
var awaited = map[string]string{}

// promtool checks with the tool of Prometheus, where it is installed.
func promtool(t *testing.T, arguments ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("NOT CHECKED: promtool is not installed (Debian: apt-get install prometheus)")
	}
	cmd := exec.CommandContext(t.Context(), path, arguments...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
}

func prometheusFile(name string) string { return filepath.Join(root, "deploy", "prometheus", name) }

func TestPrometheusConfiguration(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "config", prometheusFile("prometheus.yaml"))
}

func TestPrometheusRules(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", prometheusFile("rules.yaml"))
}

func TestPrometheusRulesFire(t *testing.T) {
	t.Parallel()
	promtool(t, "test", "rules", prometheusFile("rules.test.yaml"))
}

type ruleFile struct {
	Groups []struct {
		Rules []struct {
			Alert, Record, Expr string
			Labels, Annotations map[string]string
		}
	}
}

func readRules(t *testing.T) ruleFile {
	t.Helper()
	text, err := os.ReadFile(prometheusFile("rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file ruleFile
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestAlertsAreExplained: each alert says what it means in words, how bad it is, and where the runbook has it; each is
// tried by a unit test.
func TestAlertsAreExplained(t *testing.T) {
	t.Parallel()
	runbook, err := os.ReadFile(filepath.Join(root, "docs", "operations", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(prometheusFile("rules.test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	alerts := 0
	for _, group := range readRules(t).Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				continue
			}
			alerts++
			if !slices.Contains([]string{"critical", "warning", "info", "none"}, rule.Labels["severity"]) {
				t.Errorf("%s: severity %q", rule.Alert, rule.Labels["severity"])
			}
			if rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%s is not explained", rule.Alert)
			}
			if want := "docs/operations/runbook.md#" + strings.ToLower(rule.Alert); !strings.HasSuffix(rule.Annotations["runbook_url"], want) {
				t.Errorf("%s: runbook %q, want …%s", rule.Alert, rule.Annotations["runbook_url"], want)
			}
			if !strings.Contains(string(runbook), "\n### "+rule.Alert+"\n") {
				t.Errorf("the runbook has no entry %s", rule.Alert)
			}
			if !strings.Contains(string(tests), rule.Alert) {
				t.Errorf("%s is tried by no test", rule.Alert)
			}
		}
	}
	if entries := strings.Count(string(runbook), "\n### Fleet"); entries != alerts {
		t.Errorf("the runbook has %d entries for %d alerts", entries, alerts)
	}
}

// registered are the metrics that the code registers, with their labels. They are read from the sources: a service need
// not have seen anything for its names to count.
func registered(t *testing.T) map[string][]string {
	t.Helper()
	var (
		name   = regexp.MustCompile(`"(fleet_[a-z0-9_]+)"`)
		labels = regexp.MustCompile(`(?s)\[\]string\{([^}]*)\}|Labels\{([^}]*)\}`)
		word   = regexp.MustCompile(`"([a-z_]+)"`)
	)
	found := map[string][]string{}
	var files []string
	for _, pattern := range []string{"services/*/*.go", "internal/service/*.go", "internal/ticker/*.go", "internal/bus/*.go", "internal/store/*.go"} {
		matched, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, matched...)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(content)
		places := name.FindAllStringSubmatchIndex(text, -1)
		for i, place := range places {
			end := min(len(text), place[1]+800)
			if i+1 < len(places) {
				end = min(end, places[i+1][0])
			}
			metric := text[place[2]:place[3]]
			found[metric] = append(found[metric], []string{}...)
			// Helpers take them behind the name and the help, in the same line.
			line, _, _ := strings.Cut(text[place[1]:end], "\n")
			for _, label := range word.FindAllStringSubmatch(line, -1) {
				found[metric] = append(found[metric], label[1])
			}
			for _, list := range labels.FindAllString(text[place[1]:end], -1) {
				for _, label := range word.FindAllStringSubmatch(list, -1) {
					found[metric] = append(found[metric], label[1])
				}
			}
		}
	}
	if len(found) < 20 {
		t.Fatalf("found only %d metrics in the sources", len(found))
	}
	return found
}

// histogram are the endings that a histogram's name gets.
var (
	histogram  = regexp.MustCompile(`_(bucket|sum|count)$`)
	usedMetric = regexp.MustCompile(`\bfleet_[a-z0-9_]+`)
	selector   = regexp.MustCompile(`\b(fleet_[a-z0-9_]+)\{([^}]*)\}`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	grouping   = regexp.MustCompile(`\b(?:by|without)\s*\(([^)]*)\)`)
)

// checkMetrics holds an expression to the names and labels that the code registers.
func checkMetrics(t *testing.T, where, expr string, known map[string][]string) {
	t.Helper()
	labelsOf := func(metric string) ([]string, bool) {
		for _, name := range []string{metric, histogram.ReplaceAllString(metric, "")} {
			if labels, ok := known[name]; ok {
				return labels, true
			}
			if awaited[name] != "" {
				return nil, false
			}
		}
		t.Errorf("%s: nothing registers %s", where, metric)
		return nil, false
	}
	all, complete := []string{"job", "instance", "le"}, true
	for _, metric := range usedMetric.FindAllString(expr, -1) {
		labels, ok := labelsOf(metric)
		all, complete = append(all, labels...), complete && ok
	}
	for _, use := range selector.FindAllStringSubmatch(expr, -1) {
		labels, ok := labelsOf(use[1])
		for _, label := range matcher.FindAllStringSubmatch(use[2], -1) {
			if ok && !slices.Contains(append([]string{"job", "instance", "le"}, labels...), label[1]) {
				t.Errorf("%s: %s has no label %s, only %v", where, use[1], label[1], labels)
			}
		}
	}
	if !complete || !usedMetric.MatchString(expr) {
		return
	}
	for _, group := range grouping.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(group[1], ",") {
			if label = strings.TrimSpace(label); label != "" && !slices.Contains(all, label) {
				t.Errorf("%s: groups by %s, which none of its metrics has", where, label)
			}
		}
	}
}

// TestMetricNamesExist: rules and dashboards ask for nothing that no service says. Empty panels look like good news.
func TestMetricNamesExist(t *testing.T) {
	t.Parallel()
	known := registered(t)
	for _, group := range readRules(t).Groups {
		for _, rule := range group.Rules {
			checkMetrics(t, rule.Alert+rule.Record, rule.Expr, known)
		}
	}
	for name, board := range dashboards(t) {
		for _, panel := range board.Panels {
			for _, target := range panel.Targets {
				checkMetrics(t, fmt.Sprintf("%s, %q", name, panel.Title), target.Expr, known)
			}
		}
	}
	for name, where := range awaited {
		if _, arrived := known[name]; arrived {
			t.Errorf("%s (%s) has arrived: take it off the list of awaited names", name, where)
		}
		t.Logf("AWAITED: %s (%s)", name, where)
	}
}
