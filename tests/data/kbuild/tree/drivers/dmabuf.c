int dmabuf(void);

int dmabuf(void)
{
	return 1;
}
