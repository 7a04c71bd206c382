package bus

import "time"

// CheckEvery sets how often watchers of the bucket make sure that they have seen everything.
func (b *Bucket) CheckEvery(d time.Duration) { b.check = d }
