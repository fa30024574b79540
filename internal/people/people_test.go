package people

import (
	"errors"
	"testing"
	"time"

	"github.com/hashike/hashike/internal/feed"
	"github.com/hashike/hashike/internal/state"
)

// The stored form of a PIN never takes more work than we do for anybody, and
// fits its PIN alone.
func TestSecrets(t *testing.T) {
	stored := HashSecret("123456")
	s, err := ParseSecret(stored)
	if err != nil || !s.Is("123456") || s.Is("123457") || s.Is("") || NoSecret().Is("") {
		t.Error(err)
	}
	for _, bad := range []string{"", "123456", "$argon2id$v=19$m=99999999,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAA", "$argon2id$v=19$m=19456,t=99,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		if _, err := ParseSecret(bad); !errors.Is(err, feed.ErrConfig) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

// Approving a bundle closes what earlier ones waited for, but no telephone
// approval whose sheet is missing.
func TestApprovalsOvertake(t *testing.T) {
	db := state.At(state.Dir(t.TempDir()+"/d"), "test")
	if err := db.Create("inside", 1); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	open := func() (out []uint64) {
		db.View(func(tx state.Tx) error {
			all, err := Approvals(tx)
			for _, a := range all {
				if a.Open() {
					out = append(out, a.Bundle)
				}
			}
			return err
		})
		return out
	}
	err := db.Update(func(tx state.Tx) error {
		_, err := Approve(tx, Approval{Bundle: 1, Urgent: true, How: ByTelephone, By: "課長", Operator: "山田"}, now)
		err = errors.Join(err, Await(tx, Approval{Bundle: 2, Operator: "山田", Waits: []Snapshot{{"a", 7}}}, now), Await(tx, Approval{Bundle: 3, Operator: "山田"}, now))
		return err
	})
	if got := open(); err != nil || len(got) != 3 {
		t.Fatal(got, err)
	}
	err = db.Update(func(tx state.Tx) error {
		if _, _, err := RecordSheet(tx, 3, "山 田", now); err == nil {
			t.Error("the operator approved his own bundle")
		}
		_, _, err := RecordSheet(tx, 3, "課長", now)
		return err
	})
	if got := open(); err != nil || len(got) != 1 || got[0] != 1 {
		t.Error(got, err)
	}
	if err := db.Update(func(tx state.Tx) error { _, _, err := RecordSheet(tx, 1, "課長", now); return err }); err != nil || len(open()) != 0 {
		t.Error(open(), err)
	}
}

// The operator is told from the approver by name and by account; an account
// that a PIN told apart is not given.
func TestTheApproverIsNotTheOperatorsAccount(t *testing.T) {
	db := state.At(state.Dir(t.TempDir()+"/d"), "test")
	if err := db.Create("outside", 0); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	err := db.Update(func(tx state.Tx) error {
		_, err := Add(tx, Person{Name: "課長", Roles: []Role{Approver}, Accounts: []string{"town"}}, state.Actor{Account: "town"}, now)
		if err != nil {
			return err
		}
		for _, c := range []struct {
			operator, account string
			refused           bool
		}{
			{"課 長", "", true}, {"town", "town", true}, {"town", state.Actor{Account: "town", Role: string(Service)}.Alone(), false}, {"山田", "town", true}, {"山田", state.Actor{Account: "town", Person: "山田", PIN: true}.Alone(), false}, {"山田", "yamada", false}, {"yamada", "yamada", false},
		} {
			if _, err := CheckApprover(tx, "課長", c.operator, c.account); (err != nil) != c.refused {
				t.Errorf("%+v: %v", c, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
