package state

import (
	"time"

	"github.com/hashike/hashike/internal/feed"
)

// Acceptance records that somebody accepted a vendor's terms for a feed.
type Acceptance struct {
	Feed   string      `json:"feed"`
	Text   feed.Digest `json:"text"`             // feed.Terms.Digest
	Vendor feed.Digest `json:"vendor,omitempty"` // of the copy of the vendor's own text that was read
	Who    string      `json:"who"`
	Time   time.Time   `json:"time"`
}

const termsBucket = "terms"

// Accepted returns the last acceptance for a feed; the zero value if there is none.
func (t Tx) Accepted(name string) (a Acceptance, err error) {
	_, err = t.Get(termsBucket, name, &a)
	return a, err
}

// Accept records an acceptance, in the audit log too.
func (t Tx) Accept(a Acceptance) error {
	a.Time = a.Time.UTC()
	if err := t.Put(termsBucket, a.Feed, a); err != nil {
		return err
	}
	detail := map[string]string{"feed": a.Feed, "text": string(a.Text)}
	if a.Vendor != "" {
		detail["vendor"] = string(a.Vendor)
	}
	return t.Audit(Record{Time: a.Time, Who: a.Who, What: "terms accept", Result: "ok", Detail: detail})
}
