package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// MaxFileBytes bounds picket.yaml: a hundred thousand checks fit.
const MaxFileBytes = 64 << 20

// maxNodes bounds the work of reading one file, aliases expanded.
const maxNodes = 8 << 20

// File is what picket.yaml declares.
type File struct {
	// Servers are complete, valid and in the order of the file.
	Servers []Server
	// ConfirmRemoval confirms a plan that removes exactly that many servers.
	ConfirmRemoval int
	// Positions say where each server of Servers begins.
	Positions []Position
}

// Position is a place in a file; both numbers count from 1.
type Position struct{ Line, Column int }

// Parse reads picket.yaml. name is what faults call the file; defaults fill what neither a server nor the `defaults` of
// the file say: the interval is FLEET_HEALTH_INTERVAL, 0 is 30 s. The error
// is Faults: all of them, unless the file is no YAML at all. The key `settings` belongs to the configuration of the
// services and is not looked into.
func Parse(name string, data []byte, defaults Defaults) (*File, error) {
	if len(data) > MaxFileBytes {
		return nil, Faults{{File: name, Line: 1, Column: 1, Message: fmt.Sprintf("is longer than %d bytes", MaxFileBytes)}}
	}
	document, err := load(data)
	if err != nil {
		return nil, Faults{syntaxFault(name, err)}
	}
	d := &decoder{file: name, places: map[string]place{}, nodes: maxNodes}
	file := d.document(document, defaults)
	d.locate()
	if err := d.faults.Err(); err != nil {
		return nil, err
	}
	for i := range file.Servers {
		at := d.places[serverPath(i)]
		file.Positions = append(file.Positions, at.Position)
		file.Servers[i].sortChecks()
	}
	return file, nil
}

var errEmpty = errors.New("is empty: write `servers: []` to declare none")

// load reads the one document of a file.
func load(data []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var document, second yaml.Node
	switch err := loader.Load(&document); {
	case errors.Is(err, io.EOF):
		return nil, errEmpty
	case err != nil:
		return nil, err
	}
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
		return &document, nil
	case err != nil:
		return nil, err
	}
	return nil, &yaml.LoadError{
		Message: "a second document begins: there can be only one",
		Mark:    yaml.Mark{Line: second.Line, Column: second.Column},
	}
}

func syntaxFault(name string, err error) Fault {
	fault := Fault{File: name, Line: 1, Column: 1, Message: err.Error()}
	if load, ok := errors.AsType[*yaml.LoadError](err); ok {
		fault.Message = load.Message
		if load.ContextMsg != "" {
			fault.Message = load.ContextMsg + ": " + load.Message
		}
		fault.Line, fault.Column = max(load.Mark.Line, 1), max(load.Mark.Column, 1)
	}
	return fault
}

// place is where a value of the model stands in the file, and how the file calls it.
type place struct {
	Position
	path string
}

// decoder walks the nodes of one document, keeps every fault and remembers where each value stood.
type decoder struct {
	file   string
	faults Faults
	places map[string]place
	nodes  int
	// api: what people may say through the API alone is known.
	api bool
}

// fields are the keys that a mapping may have, and what reads each.
type fields map[string]func(n *yaml.Node, path string)

// note remembers where the value at path stands; shown is how the file calls it where that differs.
func (d *decoder) note(n *yaml.Node, path, shown string) {
	d.places[path] = place{Position{n.Line, n.Column}, shown}
}

func (d *decoder) fault(n *yaml.Node, path, format string, args ...any) {
	d.faults = append(d.faults, Fault{
		File: d.file, Line: n.Line, Column: n.Column, Path: path, Message: fmt.Sprintf(format, args...),
	})
}

// locate gives faults of validation the place of what they are about, or of the nearest thing around it, and brings
// all into the order of the file.
func (d *decoder) locate() {
	for i := range d.faults {
		fault := &d.faults[i]
		if fault.File != "" {
			continue
		}
		fault.File, fault.Line, fault.Column = d.file, 1, 1
		for path := fault.Path; path != ""; path = parentPath(path) {
			at, known := d.places[path]
			if !known {
				continue
			}
			if at.path != "" {
				fault.Path = at.path + strings.TrimPrefix(fault.Path, path)
				if closer, known := d.places[fault.Path]; known {
					at = closer
				}
			}
			fault.Line, fault.Column = at.Line, at.Column
			break
		}
	}
	slices.SortStableFunc(d.faults, func(a, b Fault) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}

// parentPath is the path without its last key or index.
func parentPath(path string) string {
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}

// resolve follows an alias and counts the node; nil when the file takes too much work.
func (d *decoder) resolve(n *yaml.Node, path string) *yaml.Node {
	if d.nodes--; d.nodes <= 0 {
		if d.nodes == 0 {
			d.fault(n, path, "the file holds more than %d values", maxNodes)
		}
		return nil
	}
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// mapping reads a mapping whose keys are known.
func (d *decoder) mapping(n *yaml.Node, path string, known fields) {
	d.entries(n, path, func(key string, keyNode, value *yaml.Node) {
		read, ok := known[key]
		if !ok {
			d.fault(keyNode, joinPath(path, key), "unknown key%s", nearest(key, known))
			return
		}
		d.note(value, joinPath(path, key), "")
		read(value, joinPath(path, key))
	})
}

// entries calls f for every key of a mapping, which may not come twice.
func (d *decoder) entries(n *yaml.Node, path string, f func(key string, keyNode, value *yaml.Node)) {
	n = d.resolve(n, path)
	if n == nil {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fault(n, path, "must be a mapping of keys to values")
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			d.fault(key, path, "keys must be plain words")
			continue
		}
		if line, twice := seen[key.Value]; twice {
			d.fault(key, joinPath(path, key.Value), "stands in line %d already", line)
			continue
		}
		seen[key.Value] = key.Line
		f(key.Value, key, n.Content[i+1])
	}
}

// sequence calls f for every entry of a sequence.
func (d *decoder) sequence(n *yaml.Node, path string, f func(i int, n *yaml.Node, path string)) {
	n = d.resolve(n, path)
	if n == nil {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.fault(n, path, "must be a list")
		return
	}
	for i, entry := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		d.note(entry, at, "")
		f(i, entry, at)
	}
}

// scalar returns the text of a single value that is not null.
func (d *decoder) scalar(n *yaml.Node, path string) (*yaml.Node, bool) {
	n = d.resolve(n, path)
	if n == nil {
		return nil, false
	}
	if n.Kind != yaml.ScalarNode {
		d.fault(n, path, "must be a single value")
		return nil, false
	}
	if n.ShortTag() == "!!null" {
		d.fault(n, path, "has no value")
		return nil, false
	}
	return n, true
}

func (d *decoder) text(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n, ok := d.scalar(n, path); ok {
			*to = n.Value
		}
	}
}

// texts reads a list of single values; one value alone is a list of one.
func (d *decoder) texts(to *[]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n.Kind == yaml.ScalarNode {
			if n, ok := d.scalar(n, path); ok {
				*to = []string{n.Value}
			}
			return
		}
		list := []string{}
		d.sequence(n, path, func(_ int, n *yaml.Node, path string) {
			if n, ok := d.scalar(n, path); ok {
				list = append(list, n.Value)
			}
		})
		*to = list
	}
}

func (d *decoder) boolean(to *bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n, ok := d.scalar(n, path); ok {
			if n.ShortTag() != "!!bool" {
				d.fault(n, path, "%q is neither true nor false", n.Value)
				return
			}
			*to = strings.EqualFold(n.Value, "true")
		}
	}
}

// number reads a whole number between low and high.
func (d *decoder) number(low, high int32, set func(int32)) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n, ok := d.scalar(n, path); ok {
			value, err := strconv.ParseInt(n.Value, 10, 32)
			if err != nil || value < int64(low) || value > int64(high) {
				d.fault(n, path, "%q is not a whole number between %d and %d", n.Value, low, high)
				return
			}
			set(int32(value))
		}
	}
}

// duration reads a duration as time.ParseDuration knows it, longer than nothing.
func (d *decoder) duration(set func(time.Duration)) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		n, ok := d.scalar(n, path)
		if !ok {
			return
		}
		value, err := time.ParseDuration(n.Value)
		switch {
		case err != nil:
			d.fault(n, path, "%q is no duration: write a number with a unit, such as 30s, 500ms or 5m", n.Value)
		case value <= 0:
			d.fault(n, path, "%q is not longer than nothing", n.Value)
		case value%time.Millisecond != 0:
			d.fault(n, path, "%q is not a whole number of milliseconds", n.Value)
		default:
			set(value)
		}
	}
}

// nearest proposes the known key that is at most two edits away from a mistyped one.
func nearest(key string, known fields) string {
	best, distance := "", 3
	for _, candidate := range sortedKeys(known) {
		if d := editDistance(key, candidate); d < distance && d < len(candidate) {
			best, distance = candidate, d
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %s?", best)
	}
	return ": known are " + strings.Join(sortedKeys(known), ", ")
}

func sortedKeys(known fields) []string {
	keys := make([]string, 0, len(known))
	for key := range known {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// editDistance is Levenshtein's, in bytes; far apart lengths are not looked at.
func editDistance(a, b string) int {
	if len(a) > len(b)+2 || len(b) > len(a)+2 {
		return 3
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
