package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/picketd/picket/internal/service"
)

// Document is what /openapi-3.0.json answers, indented, for generators of clients.
func Document() ([]byte, error) {
	s, err := New(DefaultConfig(), Deps{Kit: &service.Kit{
		Name: "api", Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Health: service.NewHealth(),
	}})
	if err != nil {
		return nil, err
	}
	var document bytes.Buffer
	if err := json.Indent(&document, s.document30, "", " "); err != nil {
		return nil, fmt.Errorf("api: read document: %w", err)
	}
	document.WriteByte('\n')
	return document.Bytes(), nil
}
