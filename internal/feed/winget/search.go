package winget

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// searchRequest is the body of POST /manifestSearch.
type searchRequest struct {
	Max        int         `json:"MaximumResults"`
	Everything bool        `json:"FetchAllManifests"`
	Query      *match      `json:"Query"`
	Inclusions []condition `json:"Inclusions"`
	Filters    []condition `json:"Filters"`
}

type match struct {
	Word string `json:"KeyWord"`
	Type string `json:"MatchType"`
}

type condition struct {
	Field string `json:"PackageMatchField"`
	Match match  `json:"RequestMatch"`
}

// Limits on a request.
const (
	maxBody       = 1 << 20
	maxConditions = 4096
	maxWord       = 1024
	pageSize      = 100 // packages of one answer
)

var errRequest = errors.New("request")

func parseSearch(b []byte) (*searchRequest, error) {
	var r searchRequest
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", errRequest, err)
	}
	if r.Max < 0 || len(r.Inclusions)+len(r.Filters) > maxConditions {
		return nil, fmt.Errorf("%w: %d results of %d conditions", errRequest, r.Max, len(r.Inclusions)+len(r.Filters))
	}
	all := slices.Concat(r.Inclusions, r.Filters)
	if r.Query != nil {
		all = append(all, condition{"Query", *r.Query})
	}
	for _, c := range all {
		switch c.Match.Type {
		case "", "Exact", "CaseInsensitive", "StartsWith", "Substring", "Wildcard", "Fuzzy", "FuzzySubstring":
		default:
			return nil, fmt.Errorf("%w: match type %.40q", errRequest, c.Match.Type)
		}
		if len(c.Match.Word) > maxWord {
			return nil, fmt.Errorf("%w: a keyword of %d bytes", errRequest, len(c.Match.Word))
		}
	}
	return &r, nil
}

// unsupported are the filters' fields that are not known here: then nothing
// matches, and the client is told which.
func (r *searchRequest) unsupported() []string {
	var out []string
	for _, c := range r.Filters {
		if !knownField(c.Field) && !slices.Contains(out, c.Field) {
			out = append(out, c.Field)
		}
	}
	return out
}

func knownField(f string) bool {
	switch f {
	case "PackageIdentifier", "PackageName", "Moniker", "Command", "Tag", "PackageFamilyName", "ProductCode", "UpgradeCode",
		"NormalizedPackageNameAndPublisher", "Market", "HasInstallerType":
		return true
	}
	return false
}

// matches: (Query or any inclusion) and all filters; without Query and
// inclusions, all filters alone (winget-cli, SearchRequest).
func (r *searchRequest) matches(p *pkg) bool {
	if r.Everything {
		return true
	}
	for _, f := range r.Filters {
		if !f.holds(p) {
			return false
		}
	}
	if r.Query == nil && len(r.Inclusions) == 0 {
		return true
	}
	if r.Query != nil && r.Query.asQuery(p) {
		return true
	}
	return slices.ContainsFunc(r.Inclusions, func(c condition) bool { return c.holds(p) })
}

// asQuery looks where a person who types a word means it.
func (m match) asQuery(p *pkg) bool {
	for _, f := range []string{"PackageIdentifier", "PackageName", "Publisher", "Moniker", "Command", "Tag", "PackageFamilyName", "ProductCode", "UpgradeCode"} {
		if (condition{f, m}).compare(p) {
			return true
		}
	}
	return false
}

// holds compares one field. Codes and family names have no case of their own:
// the client folds them and yet asks for "Exact".
func (c condition) holds(p *pkg) bool {
	switch c.Field {
	case "ProductCode", "UpgradeCode", "PackageFamilyName":
		if c.Match.Type == "Exact" || c.Match.Type == "" {
			c.Match.Type = "CaseInsensitive"
		}
	}
	return c.compare(p)
}

func (c condition) compare(p *pkg) bool {
	m := c.Match
	switch c.Field {
	case "Market":
		return true // nothing here is limited to one
	case "PackageIdentifier":
		return m.in([]string{p.id})
	}
	return slices.ContainsFunc(p.versions, func(v *version) bool {
		switch c.Field {
		case "PackageName":
			return m.in(v.names)
		case "Publisher":
			return m.in(v.publishers)
		case "Moniker":
			return m.in(v.monikers)
		case "Command":
			return m.in(v.commands)
		case "Tag":
			return m.in(v.tags)
		case "PackageFamilyName":
			return m.in(v.families)
		case "ProductCode":
			return m.in(v.products)
		case "UpgradeCode":
			return m.in(v.upgrades)
		case "HasInstallerType":
			return m.in(v.types)
		case "NormalizedPackageNameAndPublisher":
			return v.named(m.Word)
		}
		return false
	})
}

func (m match) in(values []string) bool { return slices.ContainsFunc(values, m.is) }

func (m match) is(value string) bool {
	v, w := strings.ToLower(value), strings.ToLower(m.Word)
	switch m.Type {
	case "Exact":
		return value == m.Word
	case "CaseInsensitive":
		return v == w
	case "StartsWith":
		return strings.HasPrefix(v, w)
	case "Wildcard":
		if strings.ContainsAny(w, "*?") {
			return wildcard(w, v)
		}
	case "Fuzzy", "FuzzySubstring":
		return strings.Contains(v, w) || normalName(m.Word) != "" && strings.Contains(normalName(value), normalName(m.Word))
	}
	return strings.Contains(v, w)
}

// wildcard: * is any letters, ? is one. Linear in both but for one step back.
func wildcard(pattern, s string) bool {
	p, v := []rune(pattern), []rune(s)
	i, j, star, mark := 0, 0, -1, 0
	for j < len(v) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == v[j]):
			i, j = i+1, j+1
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// named: the installed program's name is one that this version shows in
// Add/Remove Programs, or its own. The client sends the name alone, with or
// without its normalisation, and compares name and publisher of what comes back
// itself (CompositeSource.cpp); so what is found here is a candidate.
func (v *version) named(word string) bool {
	w := normalName(word)
	for _, n := range v.names {
		if strings.EqualFold(n, word) || w != "" && normalName(n) == w {
			return true
		}
		for _, p := range v.publishers { // servers and clients that send both in one
			if w != "" && (normalName(n)+normalPublisher(p) == w || normalPublisher(p)+normalName(n) == w) {
				return true
			}
		}
	}
	return false
}

// page returns the packages that match, after the token's place, and the token
// for what follows. A token names the last package sent, so it holds across
// publications.
func (c *catalogue) page(r *searchRequest, token string) (out []*pkg, next string, err error) {
	after := ""
	if token != "" {
		b, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(b) > 256 || !strings.HasPrefix(string(b), "1:") {
			return nil, "", fmt.Errorf("%w: continuation token", errRequest)
		}
		after = string(b[2:])
	}
	most := pageSize
	if r.Max > 0 {
		most = min(most, r.Max)
	}
	for _, p := range c.packages {
		if after != "" && strings.ToLower(p.id) <= after || !r.matches(p) {
			continue
		}
		if len(out) == most {
			return out, base64.RawURLEncoding.EncodeToString([]byte("1:" + strings.ToLower(out[most-1].id))), nil
		}
		out = append(out, p)
	}
	return out, "", nil
}
