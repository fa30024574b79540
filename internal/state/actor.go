package state

import (
	"runtime"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// RoleService is not a person's: what runs by itself acts in it.
const RoleService = "service"

// Actor is who acts: the OS account, and the registered person and role behind
// it where one is known. It is found out, never typed as a flag.
type Actor struct {
	Account string
	Person  string
	Role    string
	PIN     bool // a PIN told which of the account's users it is
}

// String is the person where one is known, else the account: for documents
// other than the audit log ("by").
func (a Actor) String() string {
	if a.Person != "" {
		return a.Person
	}
	return a.Account
}

// Alone is the account if nothing but it says who acted: whoever else uses it
// may be the same person. A PIN tells users of one account apart; the service
// is none of them, although they may all use its account.
func (a Actor) Alone() string {
	if a.PIN || a.Role == RoleService {
		return ""
	}
	return a.Account
}

// SameName reports whether two spellings are one name: width, case and spaces do not count.
func SameName(a, b string) bool { return plain(a) == plain(b) }

func plain(s string) string {
	return strings.ToLower(strings.Join(strings.Fields(norm.NFKC.String(s)), ""))
}

// SameAccount: Windows does not tell case apart in account names.
func SameAccount(a, b string) bool {
	return a == b || runtime.GOOS == "windows" && strings.EqualFold(a, b)
}
