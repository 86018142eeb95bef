package bridge

import "sync"

// lazy is a value made at its first use; a failure is tried again at the next. Zero value: not made.
type lazy[T any] struct {
	mu   sync.Mutex
	made bool
	v    T
}

func (l *lazy[T]) get(make func() (T, error)) (T, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made {
		return l.v, nil
	}
	v, err := make()
	if err != nil {
		return v, err
	}
	l.v, l.made = v, true
	return v, nil
}
