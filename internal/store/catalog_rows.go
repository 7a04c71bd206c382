package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/picketd/picket/internal/catalog"
	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// serverRow and checkRow are rows as jsonb_to_recordset reads them.
type serverRow struct {
	ID          string   `json:"id,omitempty"`
	Revision    int64    `json:"revision"`
	Org         string   `json:"org"`
	Name        string   `json:"name"`
	ManagedBy   string   `json:"managed_by"`
	Lifecycle   string   `json:"lifecycle"`
	Change      string   `json:"change"`
	DisplayName string   `json:"display_name"`
	Region      string   `json:"region"`
	Environment string   `json:"environment"`
	Tags        []string `json:"tags"`
	Groups      []string `json:"groups"`

	Description   string          `json:"description"`
	Hostname      string          `json:"hostname"`
	Version       string          `json:"version"`
	APIURL        string          `json:"api_url"`
	Metadata      json.RawMessage `json:"metadata"`
	TokenSealed   *string         `json:"token_sealed"`
	TokenHash     *string         `json:"token_hash"`
	TokenPrevious *string         `json:"token_previous"`
	PreviousUntil *time.Time      `json:"previous_until"`
}

type checkRow struct {
	Org        string          `json:"org"`
	Server     string          `json:"server"`
	Name       string          `json:"name"`
	Kind       string          `json:"kind"`
	IntervalMS int64           `json:"interval_ms"`
	TimeoutMS  int64           `json:"timeout_ms"`
	Locations  []string        `json:"locations"`
	Priority   int32           `json:"priority"`
	Enabled    bool            `json:"enabled"`
	Spec       json.RawMessage `json:"spec"`
	Alerts     json.RawMessage `json:"alerts,omitempty"`
}

type applyRowsOf struct {
	add, change, remove serverRows
	checks              []checkRow
	gone                []string
}

func planRows(plan catalog.Plan) (*applyRowsOf, error) {
	rows := &applyRowsOf{}
	for i := range plan.Add {
		server := &plan.Add[i]
		if err := rows.add.put(server, catalog.Added); err != nil {
			return nil, err
		}
		for j := range server.Checks {
			if err := rows.addCheck(server, &server.Checks[j]); err != nil {
				return nil, err
			}
		}
	}
	for i := range plan.Change {
		change := &plan.Change[i]
		server := &change.Server
		if err := rows.change.put(server, changeWord(change)); err != nil {
			return nil, err
		}
		rows.gone = append(rows.gone, change.Gone...)
		for j := range server.Checks {
			check := &server.Checks[j]
			if !change.Lifecycle && !slices.Contains(change.Checks, check.Name) {
				continue
			}
			if err := rows.addCheck(server, check); err != nil {
				return nil, err
			}
		}
	}
	for i := range plan.Remove {
		if err := rows.remove.put(&plan.Remove[i], catalog.Removed); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// changeWord is how CatalogChange calls a change.
func changeWord(change *catalog.ServerChange) catalog.Change {
	switch {
	case change.Lifecycle && change.Server.Lifecycle == catalog.Maintenance:
		return catalog.EnteredMaintenance
	case change.Rotated && !change.Self && len(change.Gone) == 0:
		return catalog.TokenRotated
	default:
		return catalog.Changed
	}
}

type serverRows []serverRow

func (r *serverRows) put(s *catalog.Server, change catalog.Change) error {
	row := serverRow{
		ID: s.ID, Revision: s.Revision, Org: s.Org, Name: s.Name, ManagedBy: string(s.Source),
		Lifecycle: string(s.Lifecycle), Change: string(change), DisplayName: s.DisplayName, Region: s.Region,
		Environment: s.Environment, Tags: append([]string{}, s.Tags...), Groups: append([]string{}, s.Groups...),
		Description: s.Description, Hostname: s.Hostname, Version: s.Version, APIURL: s.APIURL, Metadata: json.RawMessage(`{}`),
	}
	if len(s.Metadata) > 0 {
		var err error
		if row.Metadata, err = json.Marshal(s.Metadata); err != nil {
			return fmt.Errorf("write metadata of %s: %w", s.Key(), err)
		}
	}
	if c := s.Credential; c != nil {
		row.TokenSealed, row.TokenHash = &c.Sealed, &c.Hash
		if c.Previous != "" {
			row.TokenPrevious, row.PreviousUntil = &c.Previous, &c.PreviousUntil
		}
	}
	*r = append(*r, row)
	return nil
}

func (r *applyRowsOf) addCheck(server *catalog.Server, check *catalog.Check) error {
	row := checkRow{
		Org: server.Org, Server: server.Name, Name: check.Name, Kind: check.Kind(),
		IntervalMS: check.Interval.Milliseconds(), TimeoutMS: check.Timeout.Milliseconds(),
		Locations: check.Locations, Priority: check.Priority, Enabled: !check.Disabled,
	}
	var spec proto.Message = &picketv1.HTTPSpec{} // empty for a reported check
	switch {
	case check.HTTP != nil:
		spec = check.HTTP
	case check.TCP != nil:
		spec = check.TCP
	case check.Metrics != nil:
		spec = check.Metrics
	}
	options := protojson.MarshalOptions{UseProtoNames: true}
	var err error
	if row.Spec, err = options.Marshal(spec); err != nil {
		return fmt.Errorf("write specification of %s/%s: %w", server.Key(), check.Name, err)
	}
	if check.Alerts != nil {
		if row.Alerts, err = options.Marshal(check.Alerts); err != nil {
			return fmt.Errorf("write alert rules of %s/%s: %w", server.Key(), check.Name, err)
		}
	}
	r.checks = append(r.checks, row)
	return nil
}
