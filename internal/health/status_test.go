package health

import (
	"slices"
	"testing"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

func TestWordAndParseStatus(t *testing.T) {
	t.Parallel()
	for s, word := range map[picketv1.Status]string{
		healthy: "healthy", degraded: "degraded", critical: "critical", unreachable: "unreachable", unknown: "unknown",
	} {
		if got := Word(s); got != word {
			t.Errorf("Word(%v) = %q, want %q", s, got, word)
		}
		if got, ok := ParseStatus(word); !ok || got != s {
			t.Errorf("ParseStatus(%q) = %v, %v", word, got, ok)
		}
	}
	if got := Word(picketv1.Status_STATUS_UNSPECIFIED); got != "unknown" {
		t.Errorf("unspecified is %q", got)
	}
	if got, ok := ParseStatus("UP"); ok {
		t.Errorf(`ParseStatus("UP") = %v`, got)
	}
}

func TestWorst(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		of   []picketv1.Status
		want picketv1.Status
	}{
		{nil, unknown},
		{[]picketv1.Status{unknown, unknown}, unknown},
		{[]picketv1.Status{unknown, healthy}, healthy},
		{[]picketv1.Status{healthy, degraded, unknown}, degraded},
		{[]picketv1.Status{degraded, unreachable}, unreachable},
		{[]picketv1.Status{critical, unreachable}, critical},
		{[]picketv1.Status{unreachable, critical}, critical},
	} {
		if got := Worst(slices.Values(tt.of)); got != tt.want {
			t.Errorf("Worst(%v) = %v, want %v", tt.of, got, tt.want)
		}
	}
}
