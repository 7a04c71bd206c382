package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/picketd/picket/internal/blob"
	"github.com/picketd/picket/internal/store"
)

const (
	// base is where everything is that needs a token.
	base = "/api/v1/fleet"
	// roleExtension tells readers of the document, and the test that walks it, which role an operation needs.
	roleExtension = "x-picket-role"
	// streamExtension tells that an answer goes on for ever.
	streamExtension = "x-picket-stream"
	bearerScheme    = "bearer"
)

// Keys of huma.Operation.Metadata.
const (
	roleMeta    = "role"
	streamMeta  = "stream"
	timeoutMeta = "timeout"
	// keptMeta marks what is answered from memory.
	keptMeta = "kept"
)

// registrations are the resources. Each adds its operations by route.
func (s *Service) registrations() []func(huma.API) {
	return []func(huma.API){
		s.registerServers,
		s.registerCredentials,
		s.registerGroups,
		s.registerTokens,
		s.registerAudit,
		s.registerHealth,
		s.registerOnDemand,
		s.registerMetrics,
		s.registerSummary,
		s.registerAlerts,
		s.registerWorkers,
		s.registerOperations,
		s.registerLive,
		s.registerExports,
	}
}

// route adds an operation that needs a role. The handler's context knows who asks (principal) and ends when the request
// may not take longer, when the database goes away and when the service stops. Errors are told as asProblem says;
// a handler that knows better returns a problem. Reads wait for their turn at the database.
//
// Structs that are embedded in I or O must be exported: huma passes over others silently, so route panics.
func route[I, O any](api huma.API, role store.Role, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	mustBeSeen(op.OperationID, reflect.TypeFor[I]())
	mustBeSeen(op.OperationID, reflect.TypeFor[O]())
	op.Metadata = maps.Clone(op.Metadata)
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	op.Metadata[roleMeta] = role
	op.Extensions = maps.Clone(op.Extensions)
	if op.Extensions == nil {
		op.Extensions = map[string]any{}
	}
	op.Extensions[roleExtension] = string(role)
	op.Security = []map[string][]string{{bearerScheme: {}}}
	op.Errors = append(slices.Clone(op.Errors), http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests,
		http.StatusServiceUnavailable)
	if strings.Contains(op.Path, "{") {
		op.Errors = append(op.Errors, http.StatusNotFound)
	}
	if op.Method != http.MethodGet && op.Method != http.MethodDelete {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	if op.Description == "" {
		op.Description = op.Summary + "."
	}
	op.Description += "\n\nNeeds the role **" + string(role) + "**."
	inTurn := op.Method == http.MethodGet && op.Metadata[streamMeta] == nil && op.Metadata[keptMeta] == nil
	huma.Register(api, op, func(ctx context.Context, input *I) (*O, error) {
		r := requestOf(ctx)
		done := func() {}
		if inTurn {
			var err error
			if done, err = r.reads.turn(ctx); err != nil {
				return nil, r.tell(ctx, err)
			}
		}
		// Before the answer is written: who takes it slowly holds nobody up.
		defer done()
		output, err := handler(ctx, input)
		if err != nil {
			return nil, r.tell(ctx, err)
		}
		return output, nil
	})
}

func mustBeSeen(operation string, t reflect.Type) {
	for field := range t.Fields() {
		if field.Anonymous && !field.IsExported() {
			panic(fmt.Sprintf("api: operation %s: embedded %s is not exported", operation, field.Name))
		}
	}
}

// streaming marks an operation whose answer goes on until the client leaves or the service stops.
func streaming(op huma.Operation) huma.Operation {
	op.Metadata = maps.Clone(op.Metadata)
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	op.Metadata[streamMeta] = true
	op.Extensions = maps.Clone(op.Extensions)
	if op.Extensions == nil {
		op.Extensions = map[string]any{}
	}
	op.Extensions[streamExtension] = true
	return op
}

// within gives an operation a time-out of its own.
func within(timeout time.Duration, op huma.Operation) huma.Operation {
	op.Metadata = maps.Clone(op.Metadata)
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	op.Metadata[timeoutMeta] = timeout
	return op
}

// buildRoutes makes the handler, and the document that describes it.
func (s *Service) buildRoutes() error {
	s.mux = http.NewServeMux()
	api := humago.New(s.mux, s.humaConfig())
	api.UseMiddleware(s.pass, s.authorize)
	for _, register := range s.registrations() {
		register(api)
	}
	describe(api.OpenAPI())
	document, err := json.Marshal(api.OpenAPI())
	if err != nil {
		return fmt.Errorf("write openapi document: %w", err)
	}
	if s.document30, err = api.OpenAPI().Downgrade(); err != nil {
		return fmt.Errorf("write openapi document: %w", err)
	}
	page, err := docsPage(api.OpenAPI())
	if err != nil {
		return err
	}
	s.mux.Handle("GET /openapi.json", fixed("application/openapi+json", document))
	s.mux.Handle("GET /openapi-3.0.json", fixed("application/openapi+json", s.document30))
	s.mux.Handle("GET /docs", page)
	// Links to exports in a directory carry a signature of their own instead of a token. They are no pattern of the mux,
	// which could not tell them from exports/{id}/….
	s.handler = s.wrap(s.mux, blob.Handler(s.blob))
	return nil
}

func (s *Service) humaConfig() huma.Config {
	schemas := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Picket", Version: "1",
				Description: "Watches a fleet of servers. Every request carries `Authorization: Bearer pk_…`; " +
					"errors are RFC 9457 problems; times are RFC 3339 in UTC.",
			},
			Components: &huma.Components{
				Schemas: schemas,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					bearerScheme: {Type: "http", Scheme: "bearer", BearerFormat: "pk_<id>_<secret>"}, //nolint:gosec // a form
				},
			},
			OnAddOperation: []huma.AddOpFunc{func(_ *huma.OpenAPI, op *huma.Operation) {
				op.MaxBodyBytes = s.config.MaxBodyBytes
			}},
		},
		Formats:       map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat: "application/json",
		// A filter that is misspelled must not list everything.
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{finish},
	}
}

// describe puts the operations into an order that does not change, and names the groups they belong to.
func describe(document *huma.OpenAPI) {
	tags := map[string]bool{}
	for _, item := range document.Paths {
		for _, op := range operations(item) {
			for _, tag := range op.Tags {
				tags[tag] = true
			}
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(tags)) {
		document.Tags = append(document.Tags, &huma.Tag{Name: tag})
	}
}

// operations are those of a path, in the order in which people read them.
func operations(item *huma.PathItem) []*huma.Operation {
	all := []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete}
	return slices.DeleteFunc(all, func(op *huma.Operation) bool { return op == nil })
}

// pass lets a request through the gate and bounds its time.
func (s *Service) pass(hctx huma.Context, next func(huma.Context)) {
	meta := hctx.Operation().Metadata
	stream, _ := meta[streamMeta].(bool)
	ctx, leave, err := s.gate.through(hctx.Context(), stream)
	if err != nil {
		s.refuse(hctx, away(err.Error()))
		return
	}
	defer leave()
	if encoding := hctx.Header("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		// What is packed small may be large: nothing is unpacked.
		s.refuse(hctx, problem(http.StatusUnsupportedMediaType, "bodies are taken as they are, without Content-Encoding"))
		return
	}
	if !stream {
		timeout, ok := meta[timeoutMeta].(time.Duration)
		if !ok {
			timeout = s.config.RequestTimeout
		}
		bounded, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		ctx = bounded
	}
	next(huma.WithContext(hctx, ctx))
}

// authorize refuses who may not. An operation without a role is nobody's: there is none, and it would be refused.
func (s *Service) authorize(hctx huma.Context, next func(huma.Context)) {
	role, ok := hctx.Operation().Metadata[roleMeta].(store.Role)
	if !ok {
		s.refuse(hctx, problem(http.StatusForbidden, "this operation is for nobody"))
		return
	}
	s.authenticate(role)(hctx, next)
}

// fixed answers with the same bytes each time.
func fixed(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(body) // the client has gone when this fails
	})
}
