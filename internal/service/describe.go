package service

import (
	"encoding"
	"fmt"
	"reflect"
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

func settingNames(config any) []string {
	var names []string
	for _, setting := range Describe(config) {
		names = append(names, setting.Name)
	}
	return names
}

// readElsewhere lists the variables that no configuration struct holds: the
// path of the file itself, and what the private PostgreSQL and the tests look for.
func readElsewhere() []string {
	return []string{"PICKET_CONFIG", "PICKET_POSTGRES_BIN", "PICKET_TEST_DATABASE_URL", "PICKET_FAULT_SECONDS"}
}
