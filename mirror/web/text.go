package web

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/BurntSushi/toml"
)

//go:embed text.toml
var textFile string

// text is the catalogue of page texts: key → language → sentence. Keys of the
// table "word" go without its name.
type text map[string]map[string]string

func loadText() (text, error) {
	var doc map[string]map[string]map[string]string
	if _, err := toml.Decode(textFile, &doc); err != nil {
		return nil, fmt.Errorf("page texts: %w", err)
	}
	out := text{}
	for table, keys := range doc {
		for k, v := range keys {
			if table != "word" {
				k = table + "." + k
			}
			out[k] = v
		}
	}
	return out, nil
}

// in is a sentence with its values; a key that does not exist shows itself, so that a test finds it.
func (t text) in(lang, key string, args ...any) string {
	s, ok := t[key][lang]
	if !ok {
		return "⟦" + key + "⟧"
	}
	if len(args) == 0 || !strings.Contains(s, "%") {
		return s
	}
	return fmt.Sprintf(s, args...)
}
