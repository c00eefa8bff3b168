int core(void);

int core(void)
{
	int left_over_in_the_base = 0;
	return 0;
}
