package catalog_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/picketd/picket/internal/catalog"
)

func TestFromEnviron(t *testing.T) {
	t.Parallel()
	servers, err := catalog.FromEnviron([]string{
		"PATH=/bin",
		"INGEST_HEALTH_URL=http://iot-ingest:8080",
		"EVALUATOR_HEALTH_URL=http://iot-evaluator:8080/",
		"MY_API_HEALTH_URL=https://10.0.0.1/status?x=1",
		"UNSET_HEALTH_URL=",
		"_HEALTH_URL=http://x",
		"HEALTH_URL=http://x",
	}, catalog.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range servers {
		c := s.Checks[0]
		got[s.Name] = c.HTTP.Url
		if s.Source != catalog.SourceEnv || s.Org != "default" || c.Name != "health" ||
			c.Interval != time.Minute || c.Timeout != 5*time.Second || !cmp.Equal(c.Locations, []string{"local"}) {
			t.Errorf("%s is %+v", s.Name, s)
		}
	}
	want := map[string]string{
		"ingest": "http://iot-ingest:8080/health", "evaluator": "http://iot-evaluator:8080/health",
		"my-api": "https://10.0.0.1/status?x=1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFromEnvironKeepsTheTimeoutBelowTheInterval(t *testing.T) {
	t.Parallel()
	servers, err := catalog.FromEnviron([]string{"A_HEALTH_URL=http://a"}, catalog.Defaults{Interval: 5 * time.Second, Locations: []string{"eu"}})
	if err != nil {
		t.Fatal(err)
	}
	if c := servers[0].Checks[0]; c.Interval != 5*time.Second || c.Timeout != 4500*time.Millisecond || !cmp.Equal(c.Locations, []string{"eu"}) {
		t.Errorf("interval %s, timeout %s", c.Interval, c.Timeout)
	}
}

func TestFromEnvironRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		environ  []string
		interval time.Duration
		want     string
	}{
		"floor":    {[]string{"A_HEALTH_URL=http://a"}, 4 * time.Second, "HEALTH_CHECK_INTERVAL: 4s is shorter than 5s"},
		"userinfo": {[]string{"A_HEALTH_URL=http://u:p@a"}, 0, "A_HEALTH_URL: must not hold a user or password: use headers with a secret: reference"},
		"all": {
			[]string{"B_HEALTH_URL=ftp://b", "A_HEALTH_URL=10.0.0.1:80"},
			0,
			"A_HEALTH_URL: is no URL\nB_HEALTH_URL: scheme \"ftp\" is neither http nor https",
		},
		"name":  {[]string{"_A_HEALTH_URL=http://a"}, 0, `_A_HEALTH_URL: names no server: "-a" must be 1 to 63 of a-z, 0-9, - and _, and begin and end with a letter or digit`},
		"twice": {[]string{"my_api_HEALTH_URL=http://a", "MY_API_HEALTH_URL=http://b"}, 0, `my_api_HEALTH_URL: names the server "my-api", as MY_API_HEALTH_URL does`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := catalog.FromEnviron(test.environ, catalog.Defaults{Interval: test.interval})
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}
