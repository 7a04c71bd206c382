package api

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// contract passes requests on and fails the test when an answer is not what /openapi.json promises: an operation that is
// not there, a status or content type that is not, a body that its schema refuses.
type contract struct {
	t        *testing.T
	next     http.Handler
	document map[string]any

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
}

const documentURL = "picket:openapi"

func newContract(t *testing.T, next http.Handler) *contract {
	t.Helper()
	recorder := httptest.NewRecorder()
	next.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(recorder.Body.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	c := &contract{
		t: t, next: next, document: document.(map[string]any), compiler: jsonschema.NewCompiler(),
		schemas: map[string]*jsonschema.Schema{},
	}
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource(documentURL, document); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *contract) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, base) || r.Header.Get("Upgrade") != "" {
		c.next.ServeHTTP(w, r)
		return
	}
	seen := &tee{ResponseWriter: w}
	c.next.ServeHTTP(seen, r)
	if err := c.check(r, seen); err != nil {
		c.t.Errorf("%s %s: against the document: %v", r.Method, r.URL.Path, err)
	}
}

// check holds one answer against the document.
func (c *contract) check(r *http.Request, seen *tee) error {
	path, operation := c.operation(r)
	if operation == nil {
		if seen.status == http.StatusNotFound || seen.status == http.StatusMethodNotAllowed {
			return nil
		}
		return fmt.Errorf("%d from an operation that is not in it", seen.status)
	}
	key := fmt.Sprint(seen.status)
	responses, _ := operation["responses"].(map[string]any)
	response, ok := responses[key].(map[string]any)
	if !ok {
		if key, response, ok = "default", nil, responses["default"] != nil; !ok {
			return fmt.Errorf("status %d is not in it: %.200s", seen.status, seen.body.Bytes())
		}
		response, _ = responses["default"].(map[string]any)
	}
	content, _ := response["content"].(map[string]any)
	if len(content) == 0 {
		if seen.body.Len() > 0 {
			return fmt.Errorf("a body with %d: %.200s", seen.status, seen.body.Bytes())
		}
		return nil
	}
	mediaType, _, err := mime.ParseMediaType(seen.Header().Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("content type %q: %w", seen.Header().Get("Content-Type"), err)
	}
	media, ok := content[mediaType].(map[string]any)
	if !ok {
		return fmt.Errorf("content type %s with %d", mediaType, seen.status)
	}
	if media["schema"] == nil || !strings.HasSuffix(mediaType, "json") {
		return nil
	}
	schema, err := c.schema(strings.Join([]string{
		"paths", path, strings.ToLower(r.Method), "responses", key, "content", mediaType, "schema",
	}, "\x00"))
	if err != nil {
		return err
	}
	body, err := jsonschema.UnmarshalJSON(bytes.NewReader(seen.body.Bytes()))
	if err != nil {
		return err
	}
	if err := schema.Validate(body); err != nil {
		return fmt.Errorf("%d: %w\n%.500s", seen.status, err, seen.body.Bytes())
	}
	return nil
}

// operation is the one that the request's path belongs to: literal parts before parameters.
func (c *contract) operation(r *http.Request) (path string, operation map[string]any) {
	parts := strings.Split(r.URL.EscapedPath(), "/")
	best := -1
	paths, _ := c.document["paths"].(map[string]any)
	for candidate, item := range paths {
		pattern := strings.Split(candidate, "/")
		if len(pattern) != len(parts) {
			continue
		}
		literal := 0
		for i := range pattern {
			switch {
			case strings.HasPrefix(pattern[i], "{"):
			case pattern[i] == parts[i]:
				literal++
			default:
				literal = -len(pattern)
			}
		}
		found, ok := item.(map[string]any)[strings.ToLower(r.Method)].(map[string]any)
		if ok && literal > best {
			best, path, operation = literal, candidate, found
		}
	}
	return path, operation
}

// schema compiles the schema at a place of the document, once.
func (c *contract) schema(place string) (*jsonschema.Schema, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if schema, ok := c.schemas[place]; ok {
		return schema, nil
	}
	var pointer strings.Builder
	for part := range strings.SplitSeq(place, "\x00") {
		pointer.WriteString("/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(part))
	}
	schema, err := c.compiler.Compile(documentURL + "#" + pointer.String())
	if err != nil {
		return nil, fmt.Errorf("compile schema: %w", err)
	}
	c.schemas[place] = schema
	return schema, nil
}

// tee keeps what is answered.
type tee struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (t *tee) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *tee) WriteHeader(status int) {
	if t.status == 0 {
		t.status = status
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *tee) Write(p []byte) (int, error) {
	if t.status == 0 {
		t.status = http.StatusOK
	}
	t.body.Write(p)
	return t.ResponseWriter.Write(p)
}

// TestContractRefuses: the test's own middleware sees what is against the document.
func TestContractRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.must(http.StatusOK, w.admin, "GET", base+"/tokens", "")
	c := newContract(t, w.api.Handler())
	request := httptest.NewRequest(http.MethodGet, base+"/tokens", nil)
	for name, change := range map[string]func(*tee){
		"good":         func(*tee) {},
		"status":       func(s *tee) { s.status = http.StatusTeapot },
		"content type": func(s *tee) { s.Header().Set("Content-Type", "text/plain") },
		"member missing": func(s *tee) {
			s.body.Reset()
			s.body.WriteString(`{"tokens":[],"count":0}`)
		},
		"value": func(s *tee) {
			text := bytes.Replace(s.body.Bytes(), []byte(`"admin"`), []byte(`"emperor"`), 1)
			s.body = *bytes.NewBuffer(text)
		},
	} {
		seen := &tee{ResponseWriter: httptest.NewRecorder(), status: http.StatusOK, body: *bytes.NewBuffer(bytes.Clone(good.body))}
		seen.Header().Set("Content-Type", "application/json")
		change(seen)
		if err := c.check(request, seen); (err == nil) != (name == "good") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
