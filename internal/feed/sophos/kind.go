// Package sophos says why Sophos' definitions cannot be carried, and what to do
// instead, where somebody looks for it: in the configuration.
//
// The agent accepts an answer signed for one customer (X-Content-Signature, a
// JWT that expires after 7 days) from servers with Sophos' own certificate
// alone, as the source of its Linux agent shows (docs/feeds/sophos.md).
package sophos

import (
	"fmt"

	"github.com/hashike/hashike/internal/feed"
)

// Kind is the table entry of a vendor that is out of scope.
func Kind() feed.Kind {
	return feed.Kind{
		Name:   "sophos",
		Title:  feed.Text{JA: "Sophos（対象外: 端末が契約ごとの期限付き署名しか受け付けない）", EN: "Sophos (out of scope: agents accept signatures for one customer that expire)"},
		Config: func() any { return &struct{}{} },
		Floors: map[feed.Class]feed.Strength{feed.Definition: feed.Signed},
		Prefer: feed.Definition,
		New: func(decode feed.Decode) (feed.Feed, error) {
			if err := decode(&struct{}{}); err != nil {
				return nil, err
			}
			return nil, feed.NewFault(fmt.Errorf("Sophos terminals accept no mirror: %w", feed.ErrConfig), "H-219")
		},
	}
}
