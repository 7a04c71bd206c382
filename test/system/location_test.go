package system_test

import (
	"testing"
	"time"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// TestAnotherLocation: a Picket that stands elsewhere looks at what names no
// location from where it stands, itself included.
func TestAnotherLocation(t *testing.T) {
	t.Parallel()
	tg := newTarget(t)
	inAll(t, options{
		config: "defaults: {interval: 1s}\nservers:\n  - {name: a, url: " + tg.url() + "}\n",
		env:    []string{"PICKET_LOCATION=eu-west", "HEALTH_CHECK_INTERVAL=5", "B_HEALTH_URL=" + tg.url(), "PICKET_ENCODING=protobuf"},
	}, func(t *testing.T, d deployment, _ string) {
		o := observe(t, d)
		for _, server := range []string{"a", "b"} {
			if r := o.awaitStatus(t, server, picketv1.Status_STATUS_HEALTHY, time.Time{}); r.GetLocation() != "eu-west" {
				t.Errorf("%s was looked at from %s", server, r.GetLocation())
			}
		}
		if _, ok := d.(*single); ok {
			o.awaitStatus(t, "picket-writer", picketv1.Status_STATUS_HEALTHY, time.Time{})
		}
	})
}
