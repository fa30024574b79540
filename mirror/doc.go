// Package mirror is the inside's engine: what was imported and verified is
// published to rings as immutable generations and served to terminals.
//
// The write path (Publisher) and the read path (Server) share only files:
//
//	published/<ring>/<feed>/<generation>.json   the highest readable number counts
//	published/status.json                       what the write path knows, for pages
//	derived/<feed>/<serial>/                    what a kind built at publish
//	terminals.jsonl.zst                         what terminals took, for commands
//
// Server never opens state.db; Publisher never needs a running server. Order
// of writes: derived files → state commit (the decision, with its audit
// record) → generation files. A decision whose files are missing after a crash
// is completed by the next operation of any Publisher.
package mirror
