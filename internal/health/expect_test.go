package health

import (
	"errors"
	"slices"
	"strings"
	"testing"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestCompileNamesEveryFault(t *testing.T) {
	t.Parallel()
	spec := &picketv1.HTTPSpec{
		Url:                "http://example.org",
		Method:             "head",
		ExpectStatus:       []string{"200", "20x", "299-200", "600", "9xx", ""},
		ExpectHeaders:      []*picketv1.HeaderAssertion{{Matches: "("}},
		ExpectBody:         "[",
		ExpectJson:         []*picketv1.JSONPathAssertion{{Path: "$."}, {Path: "$.a", Equals: "ok"}, {Path: "$..a..b..c"}},
		MaxLatencyMs:       -1,
		MinCertificateDays: 3,
	}
	want := []string{
		"expect_status[1]", "expect_status[2]", "expect_status[3]", "expect_status[4]", "expect_status[5]",
		"expect_headers[0].name", "expect_headers[0].matches", "expect_body", "method",
		"expect_json[0].path", "expect_json[1].equals", "expect_json[2].path", "max_latency_ms", "min_certificate_days",
	}
	_, err := Compile(spec)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("got %v, want joined errors", err)
	}
	var got []string
	for _, err := range joined.Unwrap() {
		if field, ok := errors.AsType[*FieldError](err); ok {
			got = append(got, field.Field)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if _, err := CompileTCP(&picketv1.TCPSpec{Expect: "(", MaxLatencyMs: -1}); err == nil || !strings.Contains(err.Error(), "expect: ") || !strings.Contains(err.Error(), "max_latency_ms: ") {
		t.Errorf("tcp: got %v", err)
	}
}

func TestBoundPath(t *testing.T) {
	t.Parallel()
	for path, ok := range map[string]bool{
		"$.a.b":                            true,
		"$..a[?@.b == '$..,,,,,,,,,,..'].": true, // quoted signs do not count
		"$..a..b":                          true,
		"$..a..b..c":                       false,
		"$[?count($..*) > 1]":              false,
		"$" + strings.Repeat("[*,*]", 9):   false,
		"$" + strings.Repeat(".a", 300):    false,
	} {
		if err := boundPath(path); (err == nil) != ok {
			t.Errorf("%.40s: got %v", path, err)
		}
	}
}
