package catalog

import (
	"bytes"
	"encoding/json"

	"go.yaml.in/yaml/v4"
)

// ParseChecks reads a list of checks in JSON, with the keys and rules of `checks` in picket.yaml and one more:
// server_token has a check present the token of its server. Nothing is filled in that is not said. The error is Faults
// with paths such as checks[0].timeout; what concerns a check as a whole is for [Server.Validate].
func ParseChecks(data []byte) ([]Check, error) {
	document, err := load(data)
	if err != nil {
		return nil, Faults{{Path: "checks", Message: "cannot be read"}}
	}
	root := document
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	d := &decoder{places: map[string]place{}, nodes: maxNodes, api: true}
	var checks []Check
	d.sequence(root, "checks", func(_ int, n *yaml.Node, path string) {
		checks = append(checks, d.check(n, path, common{}))
	})
	d.locate()
	for i := range d.faults {
		// Where it stood in a text that nobody has seen.
		d.faults[i].File, d.faults[i].Line, d.faults[i].Column = "", 0, 0
	}
	return checks, d.faults.Err()
}

// object reads a mapping of anything that JSON knows.
func (d *decoder) object(to *map[string]any) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		n = d.resolve(n, path)
		if n == nil {
			return
		}
		var value map[string]any
		if n.Kind != yaml.MappingNode || n.Decode(&value) != nil {
			d.fault(n, path, "must be a mapping of keys to values")
			return
		}
		object, err := normalObject(value)
		if err != nil {
			d.fault(n, path, "holds what JSON does not know")
			return
		}
		*to = object
	}
}

// normalObject is a value as JSON reads it back.
func normalObject(value map[string]any) (map[string]any, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	err = json.NewDecoder(bytes.NewReader(text)).Decode(&object)
	return object, err
}
