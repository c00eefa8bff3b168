.data
.incbin "lib/payload"
