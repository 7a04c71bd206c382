package api

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOptional(t *testing.T) {
	t.Parallel()
	var body struct {
		A, B, C optional[string]
		M       optional[map[string]any]
	}
	if err := json.Unmarshal([]byte(`{"A":"x","B":null,"M":{"k":null}}`), &body); err != nil {
		t.Fatal(err)
	}
	a, b, c := "1", "2", "3"
	body.A.apply(&a)
	body.B.apply(&b)
	body.C.apply(&c)
	if a != "x" || b != "" || c != "3" {
		t.Errorf("a %q b %q c %q", a, b, c)
	}
	if diff := cmp.Diff(map[string]any{"k": nil}, body.M.value); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMergePatch: the examples of RFC 7396, appendix A, that are objects.
func TestMergePatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ original, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		var original, patch, want map[string]any
		err := errors.Join(json.Unmarshal([]byte(test.original), &original), json.Unmarshal([]byte(test.patch), &patch),
			json.Unmarshal([]byte(test.want), &want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, mergePatch(original, patch)); diff != "" {
			t.Errorf("%s with %s (-want +got):\n%s", test.original, test.patch, diff)
		}
	}
}
