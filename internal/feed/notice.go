package feed

// Notice is something new at a vendor's that a person must look at: nothing is
// done about it by itself.
type Notice struct {
	Text  string `json:"text"` // as the vendor has it
	URL   string `json:"url"`
	Since int64  `json:"since"` // Unix time
}

// Noticer tells what people should look at, of an accepted snapshot.
type Noticer interface{ Notices(c Content) []Notice }
