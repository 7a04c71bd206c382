package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed docs.html.tmpl
var docsTemplate string

//go:embed docs.css
var docsStyle string

type docsOperation struct {
	Method, Path, ID, Summary, Description, Tag, Role string
	Params                                            []*huma.Param
	Body, Success                                     string
	Status                                            string
}

// docsPage renders the document as one page that loads nothing from elsewhere.
func docsPage(document *huma.OpenAPI) (http.Handler, error) {
	var all []docsOperation
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		for _, op := range operations(document.Paths[path]) {
			all = append(all, newDocsOperation(document, path, op))
		}
	}
	slices.SortStableFunc(all, func(a, b docsOperation) int { return strings.Compare(a.Tag, b.Tag) })
	page, err := template.New("docs").Parse(docsTemplate)
	if err != nil {
		return nil, fmt.Errorf("render docs: %w", err)
	}
	var rendered bytes.Buffer
	err = page.Execute(&rendered, map[string]any{
		"Info": document.Info, "Operations": all, "Style": template.CSS(docsStyle), //nolint:gosec // our own file
	})
	if err != nil {
		return nil, fmt.Errorf("render docs: %w", err)
	}
	sum := sha256.Sum256([]byte(docsStyle))
	policy := "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'"
	body := rendered.Bytes()
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(body) // the client has gone when this fails
	}), nil
}

func newDocsOperation(document *huma.OpenAPI, path string, op *huma.Operation) docsOperation {
	role, _ := op.Extensions[roleExtension].(string)
	shown := docsOperation{
		Method: op.Method, Path: path, ID: op.OperationID, Summary: op.Summary, Role: role, Params: op.Parameters,
	}
	shown.Description, _, _ = strings.Cut(op.Description, "\n\nNeeds the role")
	if shown.Description == op.Summary+"." {
		shown.Description = ""
	}
	if len(op.Tags) > 0 {
		shown.Tag = op.Tags[0]
	}
	if op.RequestBody != nil {
		shown.Body = schemaText(document, op.RequestBody.Content)
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		if strings.HasPrefix(status, "2") || strings.HasPrefix(status, "3") {
			shown.Status = status
			shown.Success = schemaText(document, op.Responses[status].Content)
			break
		}
	}
	return shown
}

// schemaText is the schema of a body as JSON, with what it refers to put in once.
func schemaText(document *huma.OpenAPI, content map[string]*huma.MediaType) string {
	for _, media := range content {
		schema := media.Schema
		if schema == nil {
			continue
		}
		if schema.Ref != "" {
			schema = document.Components.Schemas.SchemaFromRef(schema.Ref)
		}
		text, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			return ""
		}
		return string(text)
	}
	return ""
}
