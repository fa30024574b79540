package feedtest

import (
	"maps"
	"slices"
)

// ownDocument is what package tooldir adds to the files of a folder.
const ownDocument = "hashike-folder.json"

// Folder completes the case of a kind that reads the folder of a vendor's own
// tool (package tooldir). unproved are kinds whose files carry no signature
// that we can read: their attacks before the folder was taken cannot be seen,
// those after it are.
func Folder(c Case, unproved bool) Case {
	c.Dir = "tool"
	c.Config = "quiet = '10ms'\n" + c.Config
	c.Address = func(p string) string {
		if p == ownDocument {
			return ""
		}
		return "/" + p
	}
	c.Requests = append(slices.Clone(c.Requests), Request{Path: "/" + ownDocument, Status: 404}, Request{Path: "/", Status: 404})
	without := map[string]string{}
	maps.Copy(without, c.Without)
	if unproved {
		c.Except = true
		for name, why := range map[string]string{
			"orders": "there is no key", "key swapped": "there is no key", "signature removed": "there is no signature that we can read",
			"upstream tampered": "what the tool left carries no signature that we can read",
		} {
			without[name] = why
		}
	}
	c.Without = without
	return c
}
