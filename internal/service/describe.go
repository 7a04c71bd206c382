package service

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Setting describes one setting of a configuration struct.
type Setting struct {
	// Name of the variable; in the file it is the same in lower case.
	Name string
	// Field of the struct that holds it.
	Field string
	// Default as a person would write it; empty when there is none.
	Default     string
	Description string
	// Secret values are never shown.
	Secret bool
}

// Settings shared by all programs that are read outside of any configuration struct.
var sharedNames = []string{"PICKET_CONFIG", "PICKET_POSTGRES_BIN"}

// Describe lists the settings of config, a struct or a pointer to one whose
// fields carry the tags `env` and `desc`, in the order of its fields. The values
// that it holds are taken for the defaults.
func Describe(config any) []Setting {
	value := reflect.Indirect(reflect.ValueOf(config))
	return describe(value)
}

func describe(value reflect.Value) []Setting {
	var settings []Setting
	for i := range value.NumField() {
		field := value.Type().Field(i)
		tag, ok := field.Tag.Lookup("env")
		switch {
		case ok && tag != "" && tag != "-":
			name, _, _ := strings.Cut(tag, ",")
			settings = append(settings, Setting{
				Name:        name,
				Field:       field.Name,
				Default:     format(value.Field(i)),
				Description: field.Tag.Get("desc"),
				Secret:      field.Tag.Get("secret") == "true",
			})
		case field.Type.Kind() == reflect.Struct && field.IsExported():
			settings = append(settings, describe(value.Field(i))...)
		}
	}
	return settings
}

func format(value reflect.Value) string {
	if value.IsZero() {
		if value.Kind() == reflect.Bool {
			return "false"
		}
		if value.CanInt() && value.Type() != reflect.TypeFor[time.Duration]() && !value.Type().Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
			return "0"
		}
	}
	switch v := value.Interface().(type) {
	case time.Duration:
		if v == 0 {
			return "0"
		}
		return shortDuration(v)
	case encoding.TextMarshaler:
		text, err := v.MarshalText()
		if err != nil {
			return ""
		}
		return string(text)
	default:
		return fmt.Sprint(v)
	}
}

// shortDuration writes 1m0s as 1m.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// AllSettings returns the names that a file or an environment may hold for
// config: its own, those of the programs around it that share the file, and the shared ones.
func AllSettings(config any) []string {
	names := slices.Clone(sharedNames)
	for _, setting := range Describe(config) {
		names = append(names, setting.Name)
	}
	if wider, ok := config.(interface{ OtherSettings() []string }); ok {
		names = append(names, wider.OtherSettings()...)
	}
	return names
}
