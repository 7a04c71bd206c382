package catalog

import (
	"maps"
	"strconv"

	"go.yaml.in/yaml/v4"

	picketv1 "github.com/picketd/picket/proto/picket/v1"
)

// metricsOf reads the shorthand `metrics` of a server, which is its check of that name: a URL, or what such a check may
// say but its name and kind. It stands behind the n checks that the server names, so that those keep their numbers.
func (d *decoder) metricsOf(n *yaml.Node, server string, number int, outer common) Check {
	shown := joinPath(server, "metrics")
	path := joinPath(server, "checks["+strconv.Itoa(number)+"]")
	here := place{Position{n.Line, n.Column}, shown}
	d.places[path], d.places[joinPath(path, "name")] = here, here

	spec := &picketv1.MetricsSpec{}
	check := Check{Name: MetricsCheck, Metrics: spec}
	own := common{}
	if n.Kind == yaml.ScalarNode {
		d.places[joinPath(path, "url")] = here
		d.text(&spec.Url)(n, shown)
	} else {
		enabled := true
		known := d.commonFields(&own)
		maps.Copy(known, d.metricsFields(spec, path))
		maps.Copy(known, d.checkFields(&check, &enabled))
		delete(known, "name")
		delete(known, "kind")
		d.mapping(n, shown, known)
		check.Disabled = !enabled
	}
	check.take(own.within(outer))
	for _, key := range []string{"interval", "timeout", "locations", "alerts"} {
		if _, said := d.places[joinPath(shown, key)]; !said {
			d.inherit(server, path, key)
		}
	}
	return check
}

// metricsFields are the keys of a check of the kind metrics; path is where validation sees the check.
func (d *decoder) metricsFields(spec *picketv1.MetricsSpec, path string) fields {
	return fields{
		"url":     d.text(&spec.Url),
		"format":  d.text(&spec.Format),
		"mapping": d.text(&spec.Mapping),
		"rules":   d.rules(&spec.Rules, path),
		"headers": d.headers(&spec.Headers),
		"token":   d.token(&spec.Headers),
		"tls":     d.tls(&spec.Tls),
	}
}

// token reads a reference to a bearer token. One that stands there itself would be read by everybody who may read the
// catalog.
func (d *decoder) token(to *[]*picketv1.Header) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		n, ok := d.scalar(n, path)
		if !ok {
			return
		}
		if scheme, _ := splitScheme(n.Value); scheme != "" || !IsSecretRef(n.Value) {
			d.fault(n, path, "must be a reference, such as secret:env:PICKET_SECRET_NAME or secret:file:/run/secrets/name")
			return
		}
		if message := secretRefFault(n.Value); message != "" {
			d.fault(n, path, "%s", message)
			return
		}
		*to = append(*to, &picketv1.Header{Name: "Authorization", Value: "Bearer " + n.Value})
	}
}

// rules reads figures by name; a single value is the series that the figure is the sum of.
func (d *decoder) rules(to *[]*picketv1.MetricRule, check string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		d.entries(n, path, func(name string, key, value *yaml.Node) {
			at := joinPath(check, "rules["+strconv.Itoa(len(*to))+"]")
			shown := joinPath(path, name)
			d.places[at] = place{Position{value.Line, value.Column}, shown}
			d.places[joinPath(at, "name")] = place{Position{key.Line, key.Column}, shown}
			rule := &picketv1.MetricRule{Name: name}
			*to = append(*to, rule)
			if value.Kind == yaml.ScalarNode {
				d.places[joinPath(at, "series")] = d.places[at]
				d.text(&rule.Series)(value, shown)
				return
			}
			d.mapping(value, shown, fields{
				"series":    d.text(&rule.Series),
				"aggregate": d.text(&rule.Aggregate),
				"divide_by": d.text(&rule.DivideBy),
				"rate":      d.boolean(&rule.Rate),
				"scale":     d.decimal(&rule.Scale),
				"offset":    d.decimal(&rule.Offset),
			})
		})
	}
}

// decimal reads a number.
func (d *decoder) decimal(to *float64) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		n, ok := d.scalar(n, path)
		if !ok {
			return
		}
		value, err := strconv.ParseFloat(n.Value, 64)
		if err != nil {
			d.fault(n, path, "%q is no number", n.Value)
			return
		}
		*to = value
	}
}
